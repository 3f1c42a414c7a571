//! The CPU's instruction sets that the kernels are compiled for, and which of them this process uses.

use std::sync::OnceLock;

/// The environment variable that narrows the choice.
const VARIABLE: &str = "VSTAR_ISA";

/// An instruction set that the kernels are compiled for.
///
/// Sums are formed in another order in each, so that the last bits of a result depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// What every CPU of the architecture has.
    Portable,
    /// AArch64's vectors of 128 bits, which every such CPU has.
    Neon,
    /// AVX2 and FMA: vectors of 256 bits.
    Avx2,
    /// AVX-512 with F, DQ and VL, and FMA: vectors of 512 bits.
    Avx512,
}

impl InstructionSet {
    /// All of them, the best last.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512];

    /// Its name in `VSTAR_ISA` and in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            match self {
                Self::Portable => true,
                Self::Neon => false,
                Self::Avx2 => has!("avx2") && has!("fma"),
                Self::Avx512 => {
                    Self::Avx2.is_available()
                        && has!("avx512f")
                        && has!("avx512dq")
                        && has!("avx512vl")
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        match self {
            Self::Portable => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Whether this CPU multiplies bf16 numbers with this set: AVX512-BF16.
    pub fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self == Self::Avx512
                && self.is_available()
                && std::arch::is_x86_feature_detected!("avx512bf16")
        }
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Those that this CPU has, the best last.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// The best one that this CPU has, or the one that `VSTAR_ISA` names.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the name: there is no such set, or this CPU lacks it.
    pub fn wanted() -> Result<Self, String> {
        let name = std::env::var(VARIABLE).unwrap_or_default();
        if name.is_empty() {
            return Ok(Self::available().last().unwrap_or(Self::Portable));
        }
        let known = |sets: &mut dyn Iterator<Item = Self>| -> String {
            sets.map(Self::as_str).collect::<Vec<_>>().join(", ")
        };
        match Self::ALL.into_iter().find(|set| set.as_str() == name) {
            Some(set) if set.is_available() => Ok(set),
            Some(_) => Err(format!(
                "{VARIABLE}: this CPU does not have `{name}`; it has {}",
                known(&mut Self::available())
            )),
            None => Err(format!(
                "{VARIABLE}: `{name}` is not an instruction set; write one of {}",
                known(&mut Self::available())
            )),
        }
    }

    /// The one that the kernels of this process use: [`Self::wanted`] at the first call.
    ///
    /// # Panics
    /// If `VSTAR_ISA` names none that this CPU has. The program refuses that when it starts.
    pub fn used() -> Self {
        static USED: OnceLock<InstructionSet> = OnceLock::new();
        *USED.get_or_init(|| Self::wanted().unwrap_or_else(|error| panic!("{error}")))
    }
}
