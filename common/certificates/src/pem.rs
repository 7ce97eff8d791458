//! Takes PEM files apart, strictly.
//!
//! Text between the blocks is ignored, as OpenSSL and Puppet do. Inside and at the borders of a block nothing is
//! forgiven: a file that is cut off, or in which one byte is not what was written, does not shrink to fewer blocks.

use crate::{
    limits::{BLOCKS, BUNDLE_BYTES, DOCUMENT_BYTES, LINE_BYTES},
    names::shown,
};

/// Why a file is not the PEM that was expected. Blocks are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Larger than [`BUNDLE_BYTES`] or, for one certificate or request, [`DOCUMENT_BYTES`].
    #[error("it has {bytes} bytes, at most {limit} are read")]
    Size { bytes: usize, limit: usize },
    /// More blocks than [`BLOCKS`], or more than the one that is expected.
    #[error("it has more than {limit} blocks")]
    Blocks { limit: usize },
    /// Empty, or text without a block. Puppet Server refuses every certificate when its CRL file is like that (measured,
    /// 7.9.5).
    #[error("it holds no block `{wanted}`")]
    Empty { wanted: &'static str },
    /// The file ends, or another block begins, before its END.
    #[error("block {block} has no end: the file is truncated")]
    Truncated { block: usize },
    /// An END without its BEGIN, or a border line with something else on it.
    #[error("the border `{line}` at block {block} begins or ends nothing")]
    Border { block: usize, line: String },
    /// Another kind of block than is expected.
    #[error("block {block} is `{found}`, `{wanted}` is expected")]
    Label { block: usize, found: String, wanted: &'static str },
    /// A header, an empty line, a foreign character, a line that is too long, padding or bits that base64 does not have.
    #[error("block {block} is not base64")]
    Base64 { block: usize },
}

/// The contents of all blocks of a bundle; there is at least one, and all are labelled `wanted`.
pub(crate) fn blocks(file: &[u8], wanted: &'static str) -> Result<Vec<Vec<u8>>, PemError> {
    read(file, wanted, BUNDLE_BYTES, BLOCKS)
}

/// The content of the only block of a file.
pub(crate) fn block(file: &[u8], wanted: &'static str) -> Result<Vec<u8>, PemError> {
    let mut blocks = read(file, wanted, DOCUMENT_BYTES, 1)?;
    blocks.pop().ok_or(PemError::Empty { wanted })
}

fn read(file: &[u8], wanted: &'static str, bytes: usize, most: usize) -> Result<Vec<Vec<u8>>, PemError> {
    if file.len() > bytes {
        return Err(PemError::Size { bytes: file.len(), limit: bytes });
    }
    let mut blocks = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    // The last line end begins no line of its own.
    let lines = file.strip_suffix(b"\n").unwrap_or(file).split(|byte| *byte == b'\n');
    for line in lines.map(<[u8]>::trim_ascii_end) {
        let block = blocks.len() + 1;
        open = match (Line::of(line), open) {
            (Line::Begin(label), None) => {
                if blocks.len() == most {
                    return Err(PemError::Blocks { limit: most });
                }
                check_label(label, wanted, block)?;
                Some(Vec::new())
            }
            (Line::Begin(_), Some(_)) => return Err(PemError::Truncated { block }),
            (Line::End(label), Some(base64)) => {
                check_label(label, wanted, block)?;
                blocks.push(decode(&base64).ok_or(PemError::Base64 { block })?);
                None
            }
            (Line::Other, Some(mut base64)) => {
                if line.is_empty() || line.len() > LINE_BYTES {
                    return Err(PemError::Base64 { block });
                }
                base64.extend_from_slice(line);
                Some(base64)
            }
            (Line::Other, None) => None,
            (Line::End(_), None) | (Line::Broken, _) => {
                return Err(PemError::Border { block, line: shown(line) });
            }
        };
    }
    match open {
        Some(_) => Err(PemError::Truncated { block: blocks.len() + 1 }),
        None if blocks.is_empty() => Err(PemError::Empty { wanted }),
        None => Ok(blocks),
    }
}

enum Line<'a> {
    Begin(&'a [u8]),
    End(&'a [u8]),
    /// It begins like a border and does not end like one.
    Broken,
    Other,
}

impl<'a> Line<'a> {
    fn of(line: &'a [u8]) -> Self {
        let (rest, border): (_, fn(&'a [u8]) -> Self) = if let Some(rest) = line.strip_prefix(b"-----BEGIN ")
        {
            (rest, Line::Begin)
        } else if let Some(rest) = line.strip_prefix(b"-----END ") {
            (rest, Line::End)
        } else {
            return Self::Other;
        };
        rest.strip_suffix(b"-----").map_or(Self::Broken, border)
    }
}

fn check_label(found: &[u8], wanted: &'static str, block: usize) -> Result<(), PemError> {
    if found == wanted.as_bytes() {
        Ok(())
    } else {
        Err(PemError::Label { block, found: shown(found), wanted })
    }
}

/// Base64 of which every content has exactly one spelling: whole groups of four, and no bits behind the last byte.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take(3).take_while(|byte| **byte == b'=').count();
    if text.is_empty() || !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in text[..text.len() - padding].chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            bits = bits << 6 | digit(*byte)?;
        }
        bits <<= 6 * (4 - group.len());
        let octets = bits.to_be_bytes();
        let (whole, rest) = octets[1..].split_at(group.len() - 1);
        if rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(whole);
    }
    Some(bytes)
}

const fn digit(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_whatever_stands_around_it() {
        let file = b"text\r\n-----BEGIN X-----\r\nAAEC\t\r\nAw==\n-----END X-----\n -----END X-----\n\xff\n";
        assert_eq!(block(file, "X"), Ok(vec![0, 1, 2, 3]));
    }

    #[test]
    fn borders_that_begin_or_end_nothing_are_refused() {
        for (file, line) in [
            ("-----END X-----\n", "-----END X-----"),
            ("-----BEGIN X----\n", "-----BEGIN X----"),
            ("-----BEGIN X-----AAEC\n-----END X-----", "-----BEGIN X-----AAEC"),
            ("-----BEGIN X-----\nAAEC\n-----END X-----x", "-----END X-----x"),
        ] {
            let border = PemError::Border { block: 1, line: line.into() };
            assert_eq!(block(file.as_bytes(), "X"), Err(border), "{file}");
        }
        let mut second = good("AAEC");
        second.push_str("-----END X-----\n");
        assert_eq!(
            blocks(second.as_bytes(), "X").unwrap_err().to_string(),
            "the border `-----END X-----` at block 2 begins or ends nothing"
        );
    }

    #[test]
    fn a_block_without_its_end_is_truncated() {
        for file in
            ["-----BEGIN X-----", "-----BEGIN X-----\nAAEC\n", "-----BEGIN X-----\nAAEC\n-----BEGIN X-----\n"]
        {
            assert_eq!(block(file.as_bytes(), "X"), Err(PemError::Truncated { block: 1 }), "{file}");
        }
    }

    #[test]
    fn a_content_has_one_spelling() {
        for wrong in [
            "",
            "AAE",
            "AAECA",
            "A===",
            "AA=",
            "AB==",
            "AAF=",
            "AA==AAEC",
            "=AAA",
            "AA EC",
            "AA-_",
            "====",
            "AAEC\n\nAAEC",
            "Proc-Type: 4,ENCRYPTED\n\nAAEC",
        ] {
            assert_eq!(block(good(wrong).as_bytes(), "X"), Err(PemError::Base64 { block: 1 }), "{wrong}");
        }
        assert_eq!(
            block(good(&"A".repeat(LINE_BYTES + 2)).as_bytes(), "X"),
            Err(PemError::Base64 { block: 1 })
        );
        assert_eq!(block(good("AAE=").as_bytes(), "X"), Ok(vec![0, 1]));
        assert_eq!(block(good("+/9z").as_bytes(), "X"), Ok(vec![0xfb, 0xff, 0x73]));
    }

    #[test]
    fn a_label_of_another_kind_is_shown_without_its_control_characters() {
        let error = block(b"-----BEGIN \x1b[2J-----\n", "X").unwrap_err();
        assert_eq!(error.to_string(), "block 1 is `\\u{1b}[2J`, `X` is expected");
    }

    fn good(base64: &str) -> String {
        format!("-----BEGIN X-----\n{base64}\n-----END X-----\n")
    }
}
