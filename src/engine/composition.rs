//! A picture by regions: where a layout has each thing, what is generated again around it, and how that comes back into the
//! picture.

mod crop;
mod regions;

pub use self::crop::{Crop, outline};
pub use self::regions::find_boxes;
