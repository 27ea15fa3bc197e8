//! Small versions of images, made here of files of any server and kept beside
//! the contents: `media/thumbnails/ab/cdef…/96x96-crop.png`, by SHA-256.
//!
//! An image is hostile: its size is read before its pixels are, memory for them
//! is bounded, and only a few are made at once. What can't be made, or is no
//! image, is remembered by an empty file; then the original has to do.
//!
//! Invariant: only the sizes of [`SIZES`] are made, so clients can't fill the disk.

use std::{
    fs,
    io::{self, BufReader, Write as _},
    path::PathBuf,
    sync::Arc,
};

use image::{
    DynamicImage, ImageDecoder, ImageReader, Limits, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder,
};

use super::{Media, MediaStore, run};
use crate::{error::MatrixError, new_file};

/// Beside the contents' own folders.
pub(super) const FOLDER: &str = "thumbnails";
/// The largest file that is looked into, in bytes.
const SOURCE_BYTES_MAX: u64 = 32 << 20;
/// Pixels of an image that is made smaller.
const PIXELS_MAX: u64 = 25_000_000;
/// Memory for decoding one, in bytes: four for each pixel, and the decoder's own.
const DECODING_BYTES_MAX: u64 = 128 << 20;
/// Images that are decoded at once.
pub(super) const AT_ONCE_MAX: usize = 2;
/// Requests that wait for their turn; more get the original.
pub(super) const WAITING_MAX: usize = 64;
/// Of JPEG, in per cent.
const QUALITY: u8 = 80;

/// How an image is fitted into a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// All of it, in its proportions.
    Scale,
    /// Its middle, filling the size.
    Crop,
}

/// The sizes that are made (client-server API, "Thumbnails"), from small to large.
const SIZES: [(u32, u32, Method); 5] = [
    (32, 32, Method::Crop),
    (96, 96, Method::Crop),
    (320, 240, Method::Scale),
    (640, 480, Method::Scale),
    (800, 600, Method::Scale),
];

/// A size that a client wishes for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// How it is fitted; left to the server if not given.
    pub method: Option<Method>,
}

impl Wish {
    /// Out of a request's query.
    ///
    /// # Errors
    /// 400 `M_MISSING_PARAM` or `M_INVALID_PARAM`.
    pub fn parse(query: &str) -> Result<Self, MatrixError> {
        let find = |wanted: &str| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs.find(|(name, _)| name == wanted).map(|(_, value)| value)
        };
        let number = |name: &str| {
            let value = find(name)
                .ok_or_else(|| MatrixError::new(400, "M_MISSING_PARAM", format!("Missing {name}")))?;
            value.parse().map_err(|_| MatrixError::invalid_param(format!("{name} is not a number of pixels")))
        };
        let method = match find("method").as_deref() {
            None => None,
            Some("scale") => Some(Method::Scale),
            Some("crop") => Some(Method::Crop),
            Some(_) => return Err(MatrixError::invalid_param("method is \"scale\" or \"crop\"")),
        };
        Ok(Self { width: number("width")?, height: number("height")?, method })
    }

    /// The smallest size that is at least what is wished, of the method if there
    /// is one; the largest if none is.
    fn size(self) -> (u32, u32, Method) {
        let is_enough =
            |(width, height, _): &(u32, u32, Method)| *width >= self.width && *height >= self.height;
        let is_alike = |(.., method): &(u32, u32, Method)| self.method.is_none_or(|wished| wished == *method);
        let fitting = SIZES.iter().find(|size| is_enough(size) && is_alike(size));
        let any = || SIZES.iter().find(|size| is_enough(size));
        *fitting.or_else(any).unwrap_or(&SIZES[SIZES.len() - 1])
    }
}

/// A small version of an image.
#[derive(Clone, Debug)]
pub struct Thumbnail {
    /// Where it lies.
    pub path: PathBuf,
    /// `image/png` or `image/jpeg`.
    pub content_type: &'static str,
    /// Its length.
    pub bytes: u64,
}

impl MediaStore {
    /// A small version of a file; `None` when it is no image, when it is as
    /// small already, or when too many are being made: then the original has to do.
    pub async fn thumbnail(
        self: &Arc<Self>,
        media: &Media,
        wish: Wish,
    ) -> Result<Option<Thumbnail>, MatrixError> {
        let size = wish.size();
        if media.bytes > SOURCE_BYTES_MAX {
            return Ok(None);
        }
        let (store, known) = (Arc::clone(self), media.clone());
        if let Some(made) = run(move || Ok(store.made(&known, size))).await? {
            return Ok(made);
        }
        let Ok(_place) = self.thumbnails_waiting.try_acquire() else { return Ok(None) };
        let Ok(_turn) = self.thumbnails_made.acquire().await else { return Ok(None) };
        let (store, media) = (Arc::clone(self), media.clone());
        run(move || {
            if let Some(made) = store.made(&media, size) {
                return Ok(made);
            }
            store.make(&media, size).map_err(|error| MatrixError::internal(&error))
        })
        .await
    }

    /// Where the small versions of a content lie.
    pub(super) fn thumbnails_of(&self, sha256: &str) -> PathBuf {
        let (first, rest) = sha256.split_at_checked(2).unwrap_or(("", ""));
        self.database.folder().join(super::FOLDER).join(FOLDER).join(first).join(rest)
    }

    fn place(&self, media: &Media, (width, height, method): (u32, u32, Method), ending: &str) -> PathBuf {
        let method = if method == Method::Crop { "crop" } else { "scale" };
        self.thumbnails_of(&media.sha256).join(format!("{width}x{height}-{method}.{ending}"))
    }

    /// What was made before; the inner `None` when it can't be made.
    #[expect(clippy::option_option, reason = "not tried, impossible and made are three things")]
    fn made(&self, media: &Media, size: (u32, u32, Method)) -> Option<Option<Thumbnail>> {
        for (ending, content_type) in [("jpg", "image/jpeg"), ("png", "image/png")] {
            let path = self.place(media, size, ending);
            if let Ok(held) = fs::metadata(&path) {
                return Some(Some(Thumbnail { path, content_type, bytes: held.len() }));
            }
        }
        self.place(media, size, "none").exists().then_some(None)
    }

    fn make(&self, media: &Media, size: (u32, u32, Method)) -> io::Result<Option<Thumbnail>> {
        let small = match decoded(&self.path(media), size) {
            Ok(small) => small,
            Err(why) => {
                tracing::debug!(%why, "no thumbnail is made");
                None
            }
        };
        let (ending, bytes) = match small.map(encoded) {
            Some(Ok(made)) => made,
            Some(Err(_)) | None => ("none", Vec::new()),
        };
        let mut file = new_file::Temporary::create(&self.database.folder().join(super::FOLDER))?;
        file.write_all(&bytes)?;
        file.persist(&self.place(media, size, ending))?;
        Ok(self.made(media, size).flatten())
    }
}

/// The small image; `None` when the original is no larger.
fn decoded(
    path: &std::path::Path,
    (width, height, method): (u32, u32, Method),
) -> Result<Option<DynamicImage>, image::ImageError> {
    let file = BufReader::new(fs::File::open(path)?);
    let mut reader = ImageReader::new(file).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODING_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (wide, high) = decoder.dimensions();
    let too_large = u64::from(wide) * u64::from(high) > PIXELS_MAX;
    if too_large || decoder.total_bytes() > DECODING_BYTES_MAX {
        let kind = image::error::LimitErrorKind::DimensionError;
        return Err(image::ImageError::Limits(image::error::LimitError::from_kind(kind)));
    }
    if wide <= width && high <= height {
        return Ok(None);
    }
    // Cameras say in which way they were held.
    let orientation = decoder.orientation()?;
    let whole = DynamicImage::from_decoder(decoder)?;
    let mut small = match method {
        Method::Scale => whole.thumbnail(width, height),
        Method::Crop => {
            let (width, height) = (width.min(wide), height.min(high));
            middle(&whole, width, height).thumbnail_exact(width, height)
        }
    };
    small.apply_orientation(orientation);
    Ok(Some(small))
}

/// The largest part in the middle that has the proportions of a size.
fn middle(whole: &DynamicImage, width: u32, height: u32) -> DynamicImage {
    let (wide, high) = (u64::from(whole.width()), u64::from(whole.height()));
    let (width, height) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let kept_wide = wide.min(high * width / height).max(1);
    let kept_high = high.min(wide * height / width).max(1);
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    whole.crop_imm(
        small((wide - kept_wide) / 2),
        small((high - kept_high) / 2),
        small(kept_wide),
        small(kept_high),
    )
}

fn encoded(small: DynamicImage) -> Result<(&'static str, Vec<u8>), image::ImageError> {
    let mut bytes = Vec::new();
    if small.color().has_alpha() {
        small.into_rgba8().write_with_encoder(PngEncoder::new(&mut bytes))?;
        return Ok(("png", bytes));
    }
    small.into_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY))?;
    Ok(("jpg", bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_gets_the_smallest_size_that_is_enough() {
        let wish = |width, height, method| Wish { width, height, method }.size();
        assert_eq!(wish(1, 1, None), (32, 32, Method::Crop));
        assert_eq!(wish(33, 20, Some(Method::Crop)), (96, 96, Method::Crop));
        assert_eq!(wish(10, 10, Some(Method::Scale)), (320, 240, Method::Scale));
        assert_eq!(wish(200, 200, Some(Method::Crop)), (320, 240, Method::Scale));
        assert_eq!(wish(5_000, 5_000, None), (800, 600, Method::Scale));
    }

    #[test]
    fn a_crop_keeps_the_middle_in_the_sizes_proportions() {
        let wide = DynamicImage::new_rgb8(300, 100);
        assert_eq!((middle(&wide, 32, 32).width(), middle(&wide, 32, 32).height()), (100, 100));
        let thin = DynamicImage::new_rgb8(1, 1_000);
        assert_eq!((middle(&thin, 1, 96).width(), middle(&thin, 1, 96).height()), (1, 96));
    }
}
