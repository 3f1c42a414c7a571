//! An index as an object: safetensors.

use bytemuck::{cast_slice, try_cast_slice};
use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use super::TextIndex;

/// Why an object is not an index.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("it is not a safetensors file")]
    Format(#[from] safetensors::SafeTensorError),
    #[error("it has not the shape of an index: {0}")]
    Shape(&'static str),
}

impl TextIndex {
    pub(super) fn to_safetensors(&self) -> Result<Vec<u8>, FileError> {
        let rows = self.inverse_lengths.len();
        let truncated = [self.truncated as u32];
        let tensors = [
            (
                "features",
                Dtype::F16,
                vec![rows, self.width],
                cast_slice(self.features.reinterpret_cast()),
            ),
            ("rows", Dtype::U32, vec![self.row_of.len()], cast_slice(&self.row_of)),
            ("truncated", Dtype::U32, vec![1], cast_slice(&truncated)),
        ];
        let views = tensors.into_iter().map(|(name, dtype, shape, bytes): (_, _, _, &[u8])| {
            Ok((name, TensorView::new(dtype, shape, bytes)?))
        });
        let views: Vec<(&str, TensorView<'_>)> =
            views.collect::<Result<_, safetensors::SafeTensorError>>()?;
        Ok(serialize(views, None)?)
    }

    pub(super) fn from_safetensors(bytes: &[u8]) -> Result<Self, FileError> {
        let file = SafeTensors::deserialize(bytes)?;
        let features = file.tensor("features")?;
        let &[rows, width] = features.shape() else {
            return Err(FileError::Shape("features are a matrix"));
        };
        let features: Vec<f16> = numbers::<u16>(&features, Dtype::F16)?.reinterpret_into();
        let row_of: Vec<u32> = numbers(&file.tensor("rows")?, Dtype::U32)?;
        let truncated: Vec<u32> = numbers(&file.tensor("truncated")?, Dtype::U32)?;
        let exists = |row: &u32| *row == super::NO_ROW || (*row as usize) < rows;
        if width == 0 || !row_of.iter().all(exists) {
            return Err(FileError::Shape("a row is missing"));
        }
        let truncated = truncated.first().map_or(0, |count| *count as usize);
        Ok(Self::new(width, features, row_of, truncated))
    }
}

fn numbers<T: bytemuck::AnyBitPattern>(
    tensor: &TensorView<'_>,
    dtype: Dtype,
) -> Result<Vec<T>, FileError> {
    if tensor.dtype() != dtype {
        return Err(FileError::Shape("a tensor has another type"));
    }
    match try_cast_slice(tensor.data()) {
        Ok(numbers) => Ok(numbers.to_vec()),
        // The file need not lie where its numbers are aligned.
        Err(_) => Ok(tensor
            .data()
            .chunks_exact(size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
            .collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_survives_its_file_wherever_it_lies_in_memory() {
        let index =
            TextIndex::from_features(3, &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], vec![1, u32::MAX, 0]);
        let file = index.to_safetensors().unwrap();
        let shifted = [&[0_u8][..], &file].concat();

        assert_eq!(TextIndex::from_safetensors(&file).unwrap(), index);
        assert_eq!(TextIndex::from_safetensors(&shifted[1..]).unwrap(), index);
        assert!(TextIndex::from_safetensors(&file[..file.len() - 1]).is_err());
        let wrong = TextIndex { row_of: vec![2], ..index };
        assert!(TextIndex::from_safetensors(&wrong.to_safetensors().unwrap()).is_err());
    }
}
