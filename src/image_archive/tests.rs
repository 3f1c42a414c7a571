//! Archives as people and programs make them, each with what is right for it.

use std::io::{Cursor, Seek, Write};

use image::{ImageFormat, RgbImage};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

/// An image that differs from those of other shades.
fn png(shade: u8) -> Vec<u8> {
    let image = RgbImage::from_fn(40, 36, |x, y| image::Rgb([shade, x as u8, y as u8]));
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// Packs files; a name with a slash at its end is a folder.
fn zip_of(files: &[(&str, &[u8])], method: CompressionMethod) -> File {
    let options = SimpleFileOptions::default().compression_method(method);
    let mut file = tempfile::tempfile().unwrap();
    let mut archive = ZipWriter::new(&mut file);
    for (name, content) in files {
        match name.strip_suffix('/') {
            Some(folder) => archive.add_directory(folder, options).unwrap(),
            None => {
                archive.start_file(*name, options).unwrap();
                archive.write_all(content).unwrap();
            }
        }
    }
    archive.finish().unwrap();
    file.rewind().unwrap();
    file
}

fn read(files: &[(&str, &[u8])]) -> Result<ImageArchive, Invalid> {
    ImageArchive::read(zip_of(files, CompressionMethod::Deflated))
}

fn captions(archive: &ImageArchive) -> Vec<(&str, &str)> {
    archive.files.iter().map(|file| (file.path.as_str(), file.caption.as_str())).collect()
}

/// The details of a refusal, in one text.
fn refusal(files: &[(&str, &[u8])]) -> String {
    let errors = read(files).unwrap_err().0;
    errors.into_iter().map(|error| error.detail).collect::<Vec<_>>().join("\n")
}

fn paths(archive: &ImageArchive, status: FileStatus) -> Vec<&str> {
    let files = archive.verdicts.files.iter().filter(|verdict| verdict.status == status);
    files.map(|verdict| verdict.path.as_str()).collect()
}

#[test]
fn rubbish_is_ignored_and_changes_nothing() {
    let (a, b) = (png(1), png(2));
    let clean = read(&[("set/a.png", &a), ("set/a.txt", b"a cat"), ("set/b.png", &b)]).unwrap();

    let shadow = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ";
    let with_rubbish = read(&[
        ("set/", b""),
        ("__MACOSX/", b""),
        ("__MACOSX/set/._a.png", shadow),
        ("__MACOSX/set/._a.txt", b"a dog"),
        ("set/b.png", &b),
        ("set/.DS_Store", b"Bud1"),
        ("set/Thumbs.db", b"x"),
        ("set/desktop.ini", b"x"),
        ("set/.git/objects/1.png", b"x"),
        ("set/a.txt", b"a cat"),
        ("set/a.png", &a),
        ("set/README.md", b"# cats"),
    ])
    .unwrap();

    assert_eq!(captions(&with_rubbish), [("set/a.png", "a cat"), ("set/b.png", "")]);
    let digest = |archive: ImageArchive| {
        crate::class_images::ClassImageSet::from_files(archive.files)
            .pack()
            .unwrap()
            .reference
            .digest
    };
    let verdicts = &with_rubbish.verdicts;
    assert_eq!((verdicts.ignored, verdicts.broken, verdicts.duplicate), (7, 0, 0), "{verdicts:?}");
    assert_eq!(digest(clean), digest(with_rubbish));
}

#[test]
fn images_are_told_apart_by_their_paths() {
    let (a, b, c) = (png(1), png(2), png(3));
    let archive = read(&[
        ("cat/1.png", &a),
        ("cat/1.txt", b"a cat"),
        ("dog/1.png", &b),
        ("dog/1.txt", b"a dog"),
        ("1.png", &c),
        ("A.png", &a),
        ("a.png", &b),
        ("x.jpg", &c),
        ("x.png", &a),
        ("x.txt", b"two of a name"),
    ])
    .unwrap();

    assert_eq!(
        captions(&archive),
        [
            ("1.png", ""),
            ("A.png", ""),
            ("a.png", ""),
            ("cat/1.png", "a cat"),
            ("dog/1.png", "a dog"),
            ("x.jpg", "two of a name"),
            ("x.png", "two of a name"),
        ]
    );
    assert!(paths(&archive, FileStatus::Warning).contains(&"x.txt"));
    assert_eq!(
        paths(&archive, FileStatus::Duplicate),
        ["cat/1.png", "dog/1.png", "x.jpg", "x.png"]
    );
}

#[test]
fn names_count_from_the_folder_of_their_metadata() {
    let (a, b) = (png(1), png(2));
    let line =
        |name: &str, text: &str| format!("{{\"file_name\": \"{name}\", \"text\": \"{text}\"}}\n");
    let root = line("img/1.png", "a") + &line("./img/2.png", "b");
    let windows = line("img\\\\1.png", "a") + &line("img/2.png", "b");
    for metadata in [root, windows] {
        let archive =
            read(&[("metadata.jsonl", metadata.as_bytes()), ("img/1.png", &a), ("img/2.png", &b)]);
        assert_eq!(captions(&archive.unwrap()), [("img/1.png", "a"), ("img/2.png", "b")]);
    }

    let below = line("1.png", "a") + &line("2.png", "b");
    let archive = read(&[
        ("myset/metadata.jsonl", below.as_bytes()),
        ("myset/1.png", &a),
        ("myset/2.png", &b),
    ]);
    assert_eq!(captions(&archive.unwrap()), [("myset/1.png", "a"), ("myset/2.png", "b")]);

    let archive = read(&[
        ("x/metadata.jsonl", line("1.png", "a").as_bytes()),
        ("x/1.png", &a),
        ("y/metadata.jsonl", line("1.png", "b").as_bytes()),
        ("y/1.png", &b),
    ]);
    assert_eq!(captions(&archive.unwrap()), [("x/1.png", "a"), ("y/1.png", "b")]);
}

#[test]
fn a_name_that_fits_nothing_is_refused_with_its_line_and_what_would_fit() {
    let a = png(1);
    let refused = |name: &str| {
        let metadata = format!("\n{{\"file_name\": \"{name}\", \"text\": \"a\"}}");
        refusal(&[
            ("train/metadata.jsonl", metadata.as_bytes()),
            ("train/1.png", &a),
            ("o.png", &a),
        ])
    };

    for (name, hint) in [
        ("train/1.png", "write `1.png`"),
        ("1.PNG", "write `1.png`"),
        ("o.png", "has `o.png`, outside"),
        ("2.png", "nor anything like it"),
        ("/1.png", "absolute"),
        ("../o.png", ".."),
        ("C:/1.png", "absolute"),
    ] {
        let detail = refused(name);
        assert!(detail.contains("`train/metadata.jsonl`, line 2"), "{detail}");
        assert!(detail.contains(hint), "{name}: {detail}");
    }
}

#[test]
fn an_image_with_two_captions_is_refused_and_one_named_twice_is_a_warning() {
    let a = png(1);
    let twice = |other: &str| {
        format!(
            "{{\"file_name\":\"1.png\",\"text\":\"a\"}}\n{{\"file_name\":\"1.png\",\"text\":\"{other}\"}}"
        )
    };

    let same = read(&[("metadata.jsonl", twice("a").as_bytes()), ("1.png", &a)]).unwrap();
    assert_eq!((same.verdicts.warning, captions(&same)), (1, vec![("1.png", "a")]));
    let detail = refusal(&[("metadata.jsonl", twice("b").as_bytes()), ("1.png", &a)]);
    assert!(detail.contains("line 1") && detail.contains("line 2"), "{detail}");
}

#[test]
fn captions_of_any_editor_are_the_same_text() {
    let (a, b, c, d) = (png(1), png(2), png(3), png(4));
    let metadata = "\u{feff}{\"file_name\": \"m.png\", \"text\": \"one,\\ntwo 🐶\"}\r\n\r\n{\"file_name\": \"n.png\", \"text\": \"last\"}";
    let archive = read(&[
        ("1.png", &a),
        ("1.txt", b"\xef\xbb\xbfa red dog\r\n"),
        ("2.png", &b),
        ("2.caption", b"a red dog"),
        ("3.png", &c),
        ("3.txt", b"a\nred\n\ndog\n"),
        ("4.png", &d),
        ("4.txt", b""),
        ("m.png", &a),
        ("n.png", &b),
        ("metadata.jsonl", metadata.as_bytes()),
    ])
    .unwrap();

    assert_eq!(
        captions(&archive),
        [
            ("1.png", "a red dog"),
            ("2.png", "a red dog"),
            ("3.png", "a red dog"),
            ("4.png", ""),
            ("m.png", "one, two 🐶"),
            ("n.png", "last"),
        ]
    );
    assert_eq!(paths(&archive, FileStatus::Warning), ["4.png"]);
}

#[test]
fn captions_that_are_no_text_refuse_the_archive_with_file_and_line() {
    let a = png(1);
    for (caption, line) in [(&b"\xff\xfea\0\0"[..], 1), (b"a\nb\0", 2), (b"a\n\n\xff", 3)] {
        let detail = refusal(&[("5.png", &a), ("5.txt", caption)]);
        assert!(detail.contains("`5.txt`") && detail.contains(&format!("line {line}")), "{detail}");
    }
    for line in [
        "{",
        "[1]",
        "{\"text\": \"a\"}",
        "{\"file_name\": 3}",
        "{\"file_name\": \"5.png\", \"text\": 3}",
    ] {
        let detail = refusal(&[("5.png", &a), ("metadata.jsonl", line.as_bytes())]);
        assert!(detail.contains("`metadata.jsonl`, line 1"), "{detail}");
    }
}

#[test]
fn images_that_cannot_be_read_are_left_out_with_a_word() {
    let (a, b) = (png(1), png(2));
    let metadata = r#"{"file_name": "cut.png", "text": "a"}
{"file_name": "x.gif", "text": "b"}
{"file_name": "right.jpg", "text": "c"}"#;
    let archive = read(&[
        ("right.jpg", &a), // a PNG by its bytes
        ("cut.png", &b[..b.len() / 2]),
        ("text.png", b"hello"),
        ("empty.png", b""),
        ("x.gif", b"GIF89a"),
        ("metadata.jsonl", metadata.as_bytes()),
    ])
    .unwrap();

    assert_eq!(captions(&archive), [("right.jpg", "c")]);
    let mut broken = paths(&archive, FileStatus::Broken);
    broken.sort_unstable();
    assert_eq!(broken, ["cut.png", "empty.png", "text.png", "x.gif"]);
    let detail = refusal(&[("cut.png", &b[..b.len() / 2])]);
    assert!(detail.contains("no PNG, JPEG or WebP") && detail.contains("cut.png"), "{detail}");
}

#[test]
fn what_is_no_archive_or_has_unsafe_paths_is_refused() {
    let a = png(1);
    for name in ["../a.png", "/a.png", "x/../../a.png", "..\\a.png", "C:\\a.png"] {
        let detail = refusal(&[(name, &a)]);
        assert!(detail.contains("is not taken"), "{detail}");
    }
    for bytes in [&b""[..], b"hello", &a] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        let error = ImageArchive::read(file).unwrap_err();
        assert_eq!(error.code(), Code::ImageSetUnreadable);
    }
    assert!(refusal(&[("a.txt", b"a")]).contains("no PNG, JPEG or WebP"));
    assert!(refusal(&[("x/a.png", &a), ("x\\a.png", &a)]).contains("two files"));
}

#[test]
fn a_link_is_refused() {
    let mut file = tempfile::tempfile().unwrap();
    let mut archive = ZipWriter::new(&mut file);
    archive.add_symlink("a.png", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    archive.finish().unwrap();
    file.rewind().unwrap();

    let error = ImageArchive::read(file).unwrap_err();

    assert!(error.0[0].detail.contains("link"), "{error:?}");
}

#[test]
fn a_bomb_is_stopped_while_it_is_unpacked() {
    // 600 MiB of zeros in 600 kB: more than a set, and more than one image.
    let zeros = vec![0_u8; 10 << 20];
    let names: Vec<String> = (0..60).map(|index| format!("{index}.png")).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().map(|name| (name.as_str(), zeros.as_slice())).collect();
    let packed = zip_of(&files, CompressionMethod::Deflated);
    assert!(packed.metadata().unwrap().len() < 1 << 20);
    let error = ImageArchive::read(packed).unwrap_err();
    assert_eq!(error.code(), Code::ImageSetTooLarge);

    let a = png(1);
    let large = vec![0_u8; 21 << 20];
    let archive = read(&[("a.png", &a), ("large.png", &large)]).unwrap();
    assert_eq!(paths(&archive, FileStatus::Broken), ["large.png"]);
    assert!(refusal(&[("a.png", &a), ("a.txt", &large)]).contains("`a.txt` has more than"));
}

#[test]
fn the_bytes_of_an_image_are_kept() {
    let a = png(1);
    let archive = ImageArchive::read(zip_of(&[("a.png", &a)], CompressionMethod::Stored)).unwrap();

    assert_eq!(archive.files[0].bytes, a);
    assert_eq!(paths(&archive, FileStatus::Warning), ["."], "no captions at all");
}
