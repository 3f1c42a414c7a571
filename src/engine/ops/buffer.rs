//! Access to the values of tensors on the CPU: how kernels read them, and where they write.

use std::ops::Deref;

use candle_core::{DType, Device, Result, Shape, Storage, Tensor, bail};

/// Buffers from this size on, in bytes, are worth larger pages.
const HUGE: usize = 4 << 20;

/// The values of a contiguous f32 tensor on the CPU, behind the lock that candle keeps them under.
pub(crate) struct Values<Guard> {
    storage: Guard,
    start: usize,
    end: usize,
}

/// Reads a tensor's values.
pub(crate) fn values(x: &Tensor) -> Result<Values<impl Deref<Target = Storage>>> {
    let (storage, layout) = x.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("an operation's argument of {:?} is not contiguous", layout.dims())
    };
    match &*storage {
        Storage::Cpu(values) if values.as_slice::<f32>().is_ok() => {}
        _ => bail!("an operation's argument is not f32 on the CPU"),
    }
    Ok(Values { storage, start, end })
}

impl<Guard: Deref<Target = Storage>> Deref for Values<Guard> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(values) => {
                values.as_slice::<f32>().map_or(&[], |values| &values[self.start..self.end])
            }
            _ => &[],
        }
    }
}

/// A tensor of values on the CPU.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// A new row of values that `fill` writes, every one of them.
///
/// Zeroing it first would cost as much as many of the operations themselves, and so would faulting in small pages.
pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(len);
    let spare = std::ptr::from_mut(&mut values.spare_capacity_mut()[..len]) as *mut [f32];
    advise_huge_pages(spare);
    // SAFETY: the memory is ours and every bit pattern is a valid f32; `fill` writes before anybody reads.
    fill(unsafe { &mut *spare });
    // SAFETY: the capacity is there, and `fill` has written all of it.
    unsafe { values.set_len(len) };
    values
}

/// Asks for larger pages, which take one fault instead of 512.
fn advise_huge_pages(values: *mut [f32]) {
    const PAGE: usize = 2 << 20;
    let bytes = std::mem::size_of::<f32>() * values.len();
    if cfg!(target_os = "linux") && bytes >= HUGE {
        let start = values.cast::<u8>();
        let skipped = start.align_offset(PAGE);
        let length = bytes.saturating_sub(skipped) / PAGE * PAGE;
        // SAFETY: whole pages inside memory of ours; the advice does not change what it holds.
        unsafe { libc::madvise(start.wrapping_add(skipped).cast(), length, libc::MADV_HUGEPAGE) };
    }
}

/// Whether our CPU kernels apply: f32 on the CPU. Everything else goes through candle's own operations.
pub(crate) fn has_kernels(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// A pointer whose threads write to places of their own.
#[derive(Clone, Copy)]
pub(crate) struct SharedPtr(*mut f32);

// SAFETY: users of `at` promise that no two threads touch the same place.
unsafe impl Send for SharedPtr {}
// SAFETY: likewise.
unsafe impl Sync for SharedPtr {}

impl SharedPtr {
    pub(crate) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The address of element `index`, which must be inside.
    pub(crate) fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}
