//! Where the engine's tests run.

use candle_core::Device;
use vstar::engine::device::device_named;

/// The CPU, and `cuda:0` where the build and the machine have one.
pub(crate) fn test_devices() -> Vec<Device> {
    std::iter::once(Device::Cpu).chain(device_named("cuda:0")).collect()
}
