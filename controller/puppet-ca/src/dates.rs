//! Times as Puppet Server writes them (`format-date-time`): `2031-11-27T18:41:28UTC`.

use time::{PrimitiveDateTime, macros::format_description};

/// Unix seconds. `None`: written in another way, or before 1970.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let date = text.strip_suffix("UTC").or_else(|| text.strip_suffix('Z'))?;
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let parsed = PrimitiveDateTime::parse(date, format).ok()?;
    u64::try_from(parsed.assume_utc().unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puppet_s_times_are_read_and_others_are_not() {
        assert_eq!(seconds("2031-11-27T18:41:28UTC"), Some(1_953_571_288));
        assert_eq!(seconds("2031-11-27T18:41:28Z"), Some(1_953_571_288));
        for text in [
            "",
            "UTC",
            "2031-11-27",
            "2031-13-27T18:41:28UTC",
            "1931-11-27T18:41:28UTC",
            "2031-11-27T18:41:28CET",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
