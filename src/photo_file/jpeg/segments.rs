//! The segments of a JPEG, walked from marker to marker: what decoding will cost, and whether the file is whole.

pub(super) const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;

/// What the segments say about the image.
#[derive(Debug, Default)]
pub(super) struct Segments {
    pub(super) frame: Option<Frame>,
    pub(super) scans: usize,
    /// Of ICC profiles.
    pub(super) profile_bytes: u64,
    /// Whether one of Adobe's programs wrote the file, or one that does as they do.
    pub(super) is_adobe: bool,
    pub(super) reaches_end: bool,
}

/// The frame header.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) components: usize,
    /// Blocks of all components for each block of the image.
    samples: u64,
    /// Horizontal and vertical samples of the component that has most.
    most: (u64, u64),
    /// Whether the coefficients of the whole image are in memory before any pixel is: progressive ones, and those whose components
    /// come one after another.
    pub(super) is_kept_whole: bool,
}

impl Frame {
    /// - `content`: behind the length: precision, height, width, components with their sampling
    fn of(marker: u8, content: &[u8]) -> Option<Self> {
        let &[_, h0, h1, w0, w1, components, ref rest @ ..] = content else { return None };
        let sampling = rest.chunks_exact(3).take(components.into());
        let sampling = sampling.map(|one| (u64::from(one[1] >> 4), u64::from(one[1] & 15)));
        let sampling: Vec<(u64, u64)> = sampling.collect();
        let most = |of: fn(&(u64, u64)) -> u64| sampling.iter().map(of).max().unwrap_or(1).max(1);
        Some(Self {
            width: u16::from_be_bytes([w0, w1]),
            height: u16::from_be_bytes([h0, h1]),
            components: components.into(),
            samples: sampling.iter().map(|(x, y)| x * y).sum(),
            most: (most(|one| one.0), most(|one| one.1)),
            is_kept_whole: !matches!(marker, 0xc0 | 0xc1),
        })
    }

    /// Two bytes for each coefficient.
    pub(super) fn coefficient_bytes(&self) -> u64 {
        let units = |side: u16, most: u64| u64::from(side).div_ceil(8 * most);
        2 * 64 * self.samples * units(self.width, self.most.0) * units(self.height, self.most.1)
    }
}

impl Segments {
    /// Stray bytes before a marker are skipped, as libjpeg skips them.
    pub(super) fn of(file: &[u8]) -> Self {
        let mut segments = Self::default();
        let mut at = 2; // behind the start of image
        while let Some((marker, content)) = next_marker(file, at) {
            at = match marker {
                END_OF_IMAGE => {
                    segments.reaches_end = true;
                    return segments;
                }
                0x01 | 0xd0..=0xd8 => content, // no content
                _ => {
                    let Some(&[high, low]) = file.get(content..content + 2) else {
                        return segments;
                    };
                    let end = content + usize::from(u16::from_be_bytes([high, low]));
                    segments.note(marker, file.get(content + 2..end).unwrap_or_default());
                    end
                }
            };
        }
        segments
    }

    fn note(&mut self, marker: u8, content: &[u8]) {
        match marker {
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) && self.frame.is_none() => {
                self.frame = Frame::of(marker, content);
            }
            START_OF_SCAN => {
                self.scans += 1;
                let components = content.first().copied().unwrap_or_default();
                if let Some(frame) = &mut self.frame {
                    frame.is_kept_whole |= usize::from(components) < frame.components;
                }
            }
            0xe2 if content.starts_with(b"ICC_PROFILE\0") => {
                self.profile_bytes += content.len() as u64;
            }
            0xee if content.starts_with(b"Adobe") => self.is_adobe = true,
            _ => {}
        }
    }
}

/// The next marker and where its content begins. Stuffed bytes of entropy-coded data are none.
pub(super) fn next_marker(file: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += file.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        at += file.get(at..)?.iter().position(|&byte| byte != 0xff)?;
        if file[at] != 0x00 {
            return Some((file[at], at + 1));
        }
    }
}
