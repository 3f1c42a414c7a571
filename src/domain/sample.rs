//! A sample: a prompt and how to draw it.

use serde::{Deserialize, Serialize};

/// The rule by which a denoising step goes from one noise level to the next, named as in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
