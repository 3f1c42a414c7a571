//! The memory that kernels read and write: the values of tensors on the CPU, and new buffers.

use std::ops::Deref;

use candle_core::{DType, Device, Result, Shape, Storage, Tensor, bail};

/// Least size, in bytes, of a buffer that is given huge pages.
const HUGE: usize = 4 << 20;

/// The values of a contiguous f32 tensor on the CPU, which dereference to a slice. Candle's lock is held meanwhile.
pub(crate) struct Values<Guard> {
    storage: Guard,
    start: usize,
    end: usize,
}

/// The values of a tensor.
///
/// # Errors
/// The tensor is not contiguous, or not f32 on the CPU.
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

/// A tensor on the CPU from its values.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// A new buffer of `len` values. `fill`, or the caller after it, writes each of them before it is read: operations refuse
/// arguments whose shapes do not fit together, since a shorter one would leave a rest unwritten.
///
/// The buffer is not zeroed, and it uses huge pages if it is large: zeroing it, or faulting in small pages, would cost
/// as much as many of the operations themselves.
pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(len);
    let spare = std::ptr::from_mut(&mut values.spare_capacity_mut()[..len]) as *mut [f32];
    advise_huge_pages(spare);
    // SAFETY: the memory is allocated and exclusive, and every bit pattern is a valid f32. It is written before it is
    // read.
    fill(unsafe { &mut *spare });
    // SAFETY: the capacity suffices, and values are written before they are read.
    unsafe { values.set_len(len) };
    values
}

/// Asks the system for huge pages, each of which takes one fault instead of 512.
fn advise_huge_pages(values: *mut [f32]) {
    const PAGE: usize = 2 << 20;
    let bytes = std::mem::size_of::<f32>() * values.len();
    if cfg!(target_os = "linux") && bytes >= HUGE {
        let start = values.cast::<u8>();
        let skipped = start.align_offset(PAGE);
        let length = bytes.saturating_sub(skipped) / PAGE * PAGE;
        // SAFETY: these are whole pages inside an allocation of ours, and the advice does not change their content.
        unsafe { libc::madvise(start.wrapping_add(skipped).cast(), length, libc::MADV_HUGEPAGE) };
    }
}

/// Whether our kernels compute this tensor: it is f32 on the CPU. All others are computed by candle.
pub(crate) fn has_kernels(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// A pointer that several threads use to write to disjoint places of one buffer.
#[derive(Clone, Copy)]
pub(crate) struct SharedPtr(*mut f32);

// SAFETY: whoever dereferences the result of `at` guarantees that no two threads access the same place.
unsafe impl Send for SharedPtr {}
// SAFETY: likewise.
unsafe impl Sync for SharedPtr {}

impl SharedPtr {
    pub(crate) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The address of element `index`, which must be inside the buffer.
    pub(crate) fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}
