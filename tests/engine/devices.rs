//! Where the engine's tests run.

use candle_core::Device;
use vstar::engine::device::device_named;

/// The CPU, and `cuda:0` where the build and the machine have one. `VSTAR_TEST_DEVICE=cuda:0` chooses one device alone, and
/// fails where it cannot be used.
pub(crate) fn test_devices() -> Vec<Device> {
    match std::env::var("VSTAR_TEST_DEVICE") {
        Ok(name) => vec![device_named(&name).unwrap()],
        Err(_) => std::iter::once(Device::Cpu).chain(device_named("cuda:0")).collect(),
    }
}
