//! puppet.conf and environment.conf: reads a setting as Puppet does, and sets one without touching any other line.

/// The sections that Puppet Server reads for a setting, first come first served (`[master]` is its older name).
pub(crate) const SERVER: [&str; 3] = ["server", "master", "main"];

/// The value of a setting in the first of these sections that has it.
pub(crate) fn get<'a>(text: &'a str, sections: &[&str], name: &str) -> Option<&'a str> {
    sections.iter().find_map(|section| {
        lines(text).filter(|line| line.section == *section && line.name == Some(name)).last()?.value
    })
}

/// The value of a setting of environment.conf, which has no sections.
pub(crate) fn get_plain<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    get(text, &["main"], name)
}

/// The text with `name = value` in the section for Puppet Server: in place where it stands in `[server]` or `[master]`,
/// else as the first line of that section, else in a new section at the end.
pub(crate) fn set(text: &str, name: &str, value: &str) -> String {
    let setting = format!("{name} = {value}");
    let mut out: Vec<&str> = text.lines().collect();
    for section in ["server", "master"] {
        let of_section = |line: &Line<'_>| line.section == section;
        if let Some(line) = lines(text).filter(|line| of_section(line) && line.name == Some(name)).last() {
            out[line.number] = &setting;
            return joined(&out);
        }
    }
    for section in ["server", "master"] {
        if let Some(header) = lines(text).find(|line| line.is_header && line.section == section) {
            out.insert(header.number + 1, &setting);
            return joined(&out);
        }
    }
    if out.last().is_some_and(|line| !line.trim().is_empty()) {
        out.push("");
    }
    out.extend(["[server]", &setting]);
    joined(&out)
}

/// The text with `name = value` for every program that reads it: in place wherever it stands, and in `[main]`.
pub(crate) fn set_for_all(text: &str, name: &str, value: &str) -> String {
    let setting = format!("{name} = {value}");
    let mut out: Vec<&str> = text.lines().collect();
    let mut in_main = false;
    for line in lines(text).filter(|line| line.name == Some(name)) {
        in_main |= line.section == "main";
        if line.value != Some(value) {
            out[line.number] = &setting;
        }
    }
    if !in_main {
        match lines(text).find(|line| line.is_header && line.section == "main") {
            Some(header) => out.insert(header.number + 1, &setting),
            None if out.is_empty() => out.extend(["[main]", &setting]),
            None => drop(out.splice(0..0, ["[main]", &setting, ""])),
        }
    }
    joined(&out)
}

fn joined(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

struct Line<'a> {
    number: usize,
    section: &'a str,
    is_header: bool,
    name: Option<&'a str>,
    value: Option<&'a str>,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    // What stands before the first header belongs to [main].
    let mut section = "main";
    text.lines().enumerate().map(move |(number, line)| {
        let line = line.trim();
        let mut is_header = false;
        let mut setting = None;
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            (section, is_header) = (header.0.trim(), true);
        } else if !line.starts_with(['#', ';']) {
            setting = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        }
        Line {
            number,
            section,
            is_header,
            name: setting.map(|(name, _)| name),
            value: setting.map(|(_, value)| value),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_section_goes_before_master_and_main() {
        let text = "a = 0\n[main]\na = 1\nb = 1\nc = 1\n[master]\na = 2\nb = 2\n[server]\na = 3\n# a = 4\n";
        assert_eq!(get(text, &SERVER, "a"), Some("3"));
        assert_eq!(get(text, &SERVER, "b"), Some("2"));
        assert_eq!(get(text, &SERVER, "c"), Some("1"));
        assert_eq!(get(text, &SERVER, "d"), None);
    }

    #[test]
    fn a_setting_for_all_is_set_in_main_and_wherever_it_stands_already() {
        for (before, after) in [
            ("", "[main]\nx = 1\n"),
            ("# comment\n", "[main]\nx = 1\n\n# comment\n"),
            ("y = 0\n[agent]\nz = 1\n", "[main]\nx = 1\n\ny = 0\n[agent]\nz = 1\n"),
            ("[agent]\n  x=0\n[main]\ny = 2\n", "[agent]\nx = 1\n[main]\nx = 1\ny = 2\n"),
            ("[main]\nx = 0\n# x = 5\n[server]\nx = 0\n", "[main]\nx = 1\n# x = 5\n[server]\nx = 1\n"),
            ("[main]\n  x   =  1\n", "[main]\n  x   =  1\n"),
        ] {
            let set = set_for_all(before, "x", "1");
            assert_eq!(set, after, "{before:?}");
            assert_eq!(set_for_all(&set, "x", "1"), set, "again: {before:?}");
            for section in [["agent", "main"], ["server", "main"], ["main", "main"]] {
                assert_eq!(get(&set, &section, "x"), Some("1"), "{before:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_file_is_it_says_so_afterwards_and_no_other_line_is_lost(
            lines in proptest::collection::vec("(\\[(main|agent|server|x)\\]|[#;]? ?(ca_server|y|z) ?= ?[a-c]?|)", 0..12),
        ) {
            let before = lines.join("\n");
            let set = set_for_all(&before, "ca_server", "main.example");
            proptest::prop_assert_eq!(get(&set, &["main"], "ca_server"), Some("main.example"));
            for section in ["agent", "server"] {
                proptest::prop_assert_eq!(get(&set, &[section, "main"], "ca_server"), Some("main.example"));
            }
            proptest::prop_assert_eq!(&set_for_all(&set, "ca_server", "main.example"), &set);
            let kept = |text: &str| -> Vec<String> {
                let others = text.lines().filter(|line| !line.trim_start().starts_with("ca_server"));
                others.filter(|line| !line.is_empty() && *line != "[main]").map(str::to_owned).collect()
            };
            proptest::prop_assert_eq!(kept(&set), kept(&before));
        }
    }

    #[test]
    fn a_setting_is_set_where_it_belongs_and_no_other_line_changes() {
        for (before, after) in [
            ("", "[server]\nx = 1\n"),
            ("# comment", "# comment\n\n[server]\nx = 1\n"),
            ("[main]\nx = 0\n", "[main]\nx = 0\n\n[server]\nx = 1\n"),
            ("[server]\n  x=0\ny = 2\n", "[server]\nx = 1\ny = 2\n"),
            ("[master]\nx = 0\n[agent]\nx = 5\n", "[master]\nx = 1\n[agent]\nx = 5\n"),
            ("[master]\ny = 0\n", "[master]\nx = 1\ny = 0\n"),
            ("[master]\nx = 0\n[server]\ny = 1\n", "[master]\nx = 1\n[server]\ny = 1\n"),
        ] {
            let set = set(before, "x", "1");
            assert_eq!(set, after, "{before:?}");
            assert_eq!(get(&set, &SERVER, "x"), Some("1"), "{before:?}");
        }
    }
}
