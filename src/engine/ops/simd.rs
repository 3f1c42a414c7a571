//! Functions compiled once for each instruction set, of which the one in use is called.

/// Compiles a function once for each instruction set and calls the one in use.
///
/// The body is ordinary Rust, which the compiler vectorises for each of them. The function may be unsafe.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($function:tt)*) => {
        $crate::engine::ops::simd::vectorized! { @ [unsafe] $(#[$meta])* $vis fn $($function)* }
    };
    ($(#[$meta:meta])* $vis:vis fn $($function:tt)*) => {
        $crate::engine::ops::simd::vectorized! { @ [] $(#[$meta])* $vis fn $($function)* }
    };
    (@ [$($unsafe:tt)?] $(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        $vis $($unsafe)? fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            $($unsafe)? fn body($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::engine::ops::instructions::InstructionSet;
                // SAFETY: of an unsafe function, the caller upholds its contract.
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
                $($unsafe)? fn avx512($($arg: $type),*) $(-> $out)? { $($unsafe)? { body($($arg),*) } }
                // SAFETY: likewise.
                #[target_feature(enable = "avx2,fma")]
                $($unsafe)? fn avx2($($arg: $type),*) $(-> $out)? { $($unsafe)? { body($($arg),*) } }
                match InstructionSet::used() {
                    // SAFETY: this CPU has the set in use.
                    InstructionSet::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: likewise.
                    InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    InstructionSet::Neon | InstructionSet::Portable => {}
                }
            }
            // SAFETY: of an unsafe function, the caller upholds its contract.
            $($unsafe)? { body($($arg),*) }
        }
    };
}
pub(crate) use vectorized;

/// [`vectorized!`] for functions that are generic over [`Vector`](super::vector::Vector), and over one more type if
/// they name one.
macro_rules! in_vectors {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($function:tt)*) => {
        $crate::engine::ops::simd::in_vectors! { @ [unsafe] $(#[$meta])* $vis fn $($function)* }
    };
    ($(#[$meta:meta])* $vis:vis fn $($function:tt)*) => {
        $crate::engine::ops::simd::in_vectors! { @ [] $(#[$meta])* $vis fn $($function)* }
    };
    (@ [$($unsafe:tt)?] $(#[$meta:meta])* $vis:vis fn $name:ident<$vector:ident $(, $other:ident: $bound:ident)?>($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis $($unsafe)? fn $name$(<$other: $bound>)?($($arg: $type),*) {
            use $crate::engine::ops::{instructions::InstructionSet, vector};
            #[inline(always)]
            $($unsafe)? fn body<$vector: vector::Vector $(, $other: $bound)?>($($arg: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                // SAFETY: of an unsafe function, the caller upholds its contract.
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
                $($unsafe)? fn avx512$(<$other: $bound>)?($($arg: $type),*) { $($unsafe)? { body::<vector::Avx512 $(, $other)?>($($arg),*) } }
                // SAFETY: likewise.
                #[target_feature(enable = "avx2,fma")]
                $($unsafe)? fn avx2$(<$other: $bound>)?($($arg: $type),*) { $($unsafe)? { body::<vector::Avx2 $(, $other)?>($($arg),*) } }
                match InstructionSet::used() {
                    // SAFETY: this CPU has the set in use.
                    InstructionSet::Avx512 => return unsafe { avx512$(::<$other>)?($($arg),*) },
                    // SAFETY: likewise.
                    InstructionSet::Avx2 => return unsafe { avx2$(::<$other>)?($($arg),*) },
                    InstructionSet::Neon | InstructionSet::Portable => {}
                }
            }
            #[cfg(target_arch = "aarch64")]
            if InstructionSet::used() == InstructionSet::Neon {
                // SAFETY: of an unsafe function, the caller upholds its contract.
                return $($unsafe)? { body::<vector::Neon $(, $other)?>($($arg),*) };
            }
            // SAFETY: of an unsafe function, the caller upholds its contract.
            $($unsafe)? { body::<vector::Portable $(, $other)?>($($arg),*) }
        }
    };
}
pub(crate) use in_vectors;
