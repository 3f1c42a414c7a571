//! Schedulers by name.

use serde::{Deserialize, Serialize};

/// The rule by which a denoising step goes from one noise level to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerName {
    Ddim,
    Ddpm,
    Pndm,
    Euler,
    EulerA,
    #[serde(rename = "dpmpp_2m")]
    Dpmpp2m,
    #[serde(rename = "dpmpp_2m_karras")]
    Dpmpp2mKarras,
    #[serde(rename = "unipc")]
    UniPc,
    Lcm,
}

impl SchedulerName {
    /// Every scheduler, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Ddim,
        Self::Ddpm,
        Self::Pndm,
        Self::Euler,
        Self::EulerA,
        Self::Dpmpp2m,
        Self::Dpmpp2mKarras,
        Self::UniPc,
        Self::Lcm,
    ];
}
