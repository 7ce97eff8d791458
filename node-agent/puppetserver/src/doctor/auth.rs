//! auth.conf: may this compiler's certificate flush the environment cache and the JRuby pool, and where would the rule for
//! it go?
//!
//! Reads rules as trapperkeeper-authorization does: by sort-order, then by name; the first that matches decides.

use std::{fs, io};

use super::hocon::{self, Value};
use crate::{Places, places::conf_files};

pub(crate) const CACHE: &str = "/puppet-admin-api/v1/environment-cache";
pub(crate) const POOL: &str = "/puppet-admin-api/v1/jruby-pool";
const BOTH: &str = "^/puppet-admin-api/v1/(environment-cache|jruby-pool)$";
const RULE_NAME: &str = "bunraku admin api";

/// What auth.conf says to a DELETE of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed {
        rule: String,
    },
    Denied {
        rule: String,
    },
    /// A rule that comes first has a form that is not understood here.
    Unclear {
        rule: String,
    },
    NoRule,
}

pub(crate) fn verdict(root: &Value, certname: &str, of: &str) -> Verdict {
    let mut rules: Vec<&Value> = rules(root).map(Value::items).unwrap_or_default().iter().collect();
    rules.sort_by_key(|rule| (sort_order(rule), text(rule, "name")));
    for rule in rules {
        let name = || text(rule, "name").unwrap_or("(without a name)").to_owned();
        match matches(rule, of) {
            Some(false) => {}
            None => return Verdict::Unclear { rule: name() },
            Some(true) => {
                return match allows(rule, certname) {
                    Some(true) => Verdict::Allowed { rule: name() },
                    Some(false) => Verdict::Denied { rule: name() },
                    None => Verdict::Unclear { rule: name() },
                };
            }
        }
    }
    Verdict::NoRule
}

/// The rule that surely denies a flush of the JRuby pool. `None`: it is allowed, or only trying shows.
///
/// # Errors
/// When conf.d cannot be read.
pub fn denies_pool_flush(places: &Places, certname: &str) -> io::Result<Option<String>> {
    for path in conf_files(&places.conf_d)? {
        let Ok(root) = hocon::parse(&fs::read_to_string(path)?) else { continue };
        if root.get("authorization").is_some() {
            return Ok(match verdict(&root, certname, POOL) {
                Verdict::Denied { rule } => Some(rule),
                Verdict::NoRule => Some("none, which denies it".to_owned()),
                Verdict::Allowed { .. } | Verdict::Unclear { .. } => None,
            });
        }
    }
    Ok(None)
}

/// The rule to add, as text to paste into `rules: [`.
pub(crate) fn rule(certname: &str) -> String {
    format!(
        "        {{\n\
         \x20           # Bunraku's node agent on this compiler flushes the environment cache after each deploy, and the\n\
         \x20           # JRuby pool in a rollout\n\
         \x20           match-request: {{\n\
         \x20               path: \"{BOTH}\"\n\
         \x20               type: regex\n\
         \x20               method: delete\n\
         \x20           }}\n\
         \x20           allow: \"{certname}\"\n\
         \x20           sort-order: 200\n\
         \x20           name: \"{RULE_NAME}\"\n\
         \x20       }},\n"
    )
}

/// The text with the rule as the first of the list; the error says why it is not put there by a program.
pub(crate) fn with_rule(conf: &str, certname: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !certname.bytes().all(plain) {
        return Err(format!("the certname `{certname}` has unusual characters"));
    }
    let root = hocon::parse(conf).map_err(|error| format!("it is not understood: {error}"))?;
    let Some(list @ Value::List { items, at }) = rules(&root) else {
        return Err("it has no list authorization.rules".into());
    };
    if items.iter().any(|rule| text(rule, "name") == Some(RULE_NAME)) {
        return Err(format!("it has a rule named \"{RULE_NAME}\" already, which says something else"));
    }
    let (before, after) = conf.split_at(at.start + 1);
    let after = after.strip_prefix('\n').unwrap_or(after);
    let edited = format!("{before}\n{}{after}", rule(certname));
    let check = hocon::parse(&edited).map_err(|error| format!("the edit would break it: {error}"))?;
    for path in [CACHE, POOL] {
        if let Verdict::Denied { rule } | Verdict::Unclear { rule } = verdict(&check, certname, path) {
            return Err(format!("its rule \"{rule}\" would come before ours"));
        }
    }
    match rules(&check).map(Value::items) {
        Some([_, rest @ ..]) if same(rest, list.items()) => Ok(edited),
        _ => Err("its list of rules is not found beyond doubt".into()),
    }
}

fn rules(root: &Value) -> Option<&Value> {
    root.get("authorization")?.get("rules").filter(|rules| matches!(rules, Value::List { .. }))
}

fn text<'a>(rule: &'a Value, name: &str) -> Option<&'a str> {
    rule.get(name).and_then(Value::text)
}

fn sort_order(rule: &Value) -> u32 {
    text(rule, "sort-order").and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
}

/// Whether two lists hold the same rules, wherever they stand in their texts.
fn same(a: &[Value], b: &[Value]) -> bool {
    let names =
        |rules: &[Value]| rules.iter().map(|rule| text(rule, "name").map(str::to_owned)).collect::<Vec<_>>();
    names(a) == names(b)
}

/// Whether a rule is about a flush; `None` when its form is not understood.
fn matches(rule: &Value, of: &str) -> Option<bool> {
    let request = rule.get("match-request")?;
    let methods = request.get("method").map(Value::items).unwrap_or_default();
    let delete = |method: &Value| method.text().is_some_and(|text| text.eq_ignore_ascii_case("delete"));
    if !methods.is_empty() && !methods.iter().any(delete) {
        return Some(false);
    }
    let path = text(request, "path")?;
    let about = match text(request, "type")? {
        "path" => Some(of.starts_with(path)),
        "regex" => regex_matches(path, of),
        _ => None,
    };
    // A rule for certain query parameters only may or may not be about ours.
    if about == Some(true) && request.get("query-params").is_some() { None } else { about }
}

/// Plain texts, `^`, `$`, `/?` and one level of `(a|b)`, which is how these rules are written; else `None`, unless the
/// plain beginning already leads elsewhere.
fn regex_matches(pattern: &str, of: &str) -> Option<bool> {
    let anchored = pattern.strip_prefix('^');
    let body = anchored.unwrap_or(pattern);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
    let beginning = &body[..body.find(|c| !plain(c)).unwrap_or(body.len())];
    // The last plain character may belong to a quantifier (`a?`).
    let certain = if beginning.len() == body.len() {
        beginning
    } else {
        &beginning[..beginning.len().saturating_sub(1)]
    };
    if anchored.is_some() && !of.starts_with(certain) && !certain.starts_with(of) {
        return Some(false);
    }
    let (body, to_the_end) = body.strip_suffix('$').map_or((body, false), |body| (body, true));
    let body = body.strip_suffix("/?").unwrap_or(body);
    let mut choices = vec![String::new()];
    for (number, part) in body.split(['(', ')']).enumerate() {
        let options: Vec<&str> = if number % 2 == 1 { part.split('|').collect() } else { vec![part] };
        if options.iter().any(|option| !option.chars().all(plain)) || choices.len() * options.len() > 1000 {
            return None;
        }
        choices =
            choices.iter().flat_map(|it| options.iter().map(move |option| format!("{it}{option}"))).collect();
    }
    Some(choices.iter().any(|choice| match (anchored.is_some(), to_the_end) {
        (true, true) => of == choice,
        (true, false) => of.starts_with(choice),
        (false, true) => of.ends_with(choice),
        (false, false) => of.contains(choice),
    }))
}

/// Whether a rule that matches lets this certificate in; a denial goes first.
fn allows(rule: &Value, certname: &str) -> Option<bool> {
    if rule.get("allow-unauthenticated").is_some_and(Value::is_true) {
        return Some(true);
    }
    let names = |entry: &Value| {
        let entry = entry.text().or_else(|| text(entry, "certname"))?;
        match entry {
            "*" => Some(true),
            // A regular expression, or a reference to a match of the path's.
            _ if entry.starts_with('/') || entry.contains('$') => None,
            _ => Some(match entry.strip_prefix("*.") {
                Some(domain) => certname.split_once('.').is_some_and(|(_, rest)| rest.ends_with(domain)),
                None => entry == certname,
            }),
        }
    };
    let any = |field: &str| {
        let answers: Vec<Option<bool>> =
            rule.get(field).map(Value::items).unwrap_or_default().iter().map(names).collect();
        let all_clear = answers.iter().all(Option::is_some);
        if answers.contains(&Some(true)) { Some(true) } else { all_clear.then_some(false) }
    };
    match any("deny") {
        Some(false) => any("allow"),
        denied => denied.map(|_| false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../tests/samples/auth.conf");

    fn says(rules: &str) -> Verdict {
        let root = hocon::parse(&format!("authorization: {{ version: 1, rules: [\n{rules}\n] }}")).unwrap();
        verdict(&root, "c1.example", CACHE)
    }

    fn allowed(rules: &str) -> bool {
        matches!(says(rules), Verdict::Allowed { .. })
    }

    #[test]
    fn the_shipped_file_denies_and_with_our_rule_it_allows_this_compiler_alone() {
        let root = hocon::parse(SHIPPED).unwrap();
        assert_eq!(
            verdict(&root, "c1.example", CACHE),
            Verdict::Denied { rule: "puppetlabs deny all".into() }
        );
        let edited = with_rule(SHIPPED, "c1.example").unwrap();
        let root = hocon::parse(&edited).unwrap();
        assert_eq!(verdict(&root, "c1.example", CACHE), Verdict::Allowed { rule: RULE_NAME.into() });
        assert_eq!(verdict(&root, "c2.example", CACHE), Verdict::Denied { rule: RULE_NAME.into() });
        let pool = verdict(&root, "c1.example", POOL);
        assert_eq!(pool, Verdict::Allowed { rule: RULE_NAME.into() });
        assert_eq!(edited.replace(&rule("c1.example"), ""), SHIPPED, "no other line changes");
    }

    #[test]
    fn a_rule_of_equal_effect_in_another_form_is_found() {
        let order = "sort-order: 300, name: own";
        for rule in [
            "{match-request: {path: \"^/puppet-admin-api/v1/(environment-cache|jruby-pool)$\", type: regex, \
             method: [delete]}, allow: [\"controller.example\", \"c1.example\"]",
            "{match-request: {path: \"/puppet-admin-api\", type: path}, allow: \"*.example\"",
            "{match-request: {path: \"^/puppet-admin-api/v1/\", type: regex}, allow: {certname: c1.example}",
            "{match-request: {path: \"environment-cache/?$\", type: regex}, allow-unauthenticated: true",
        ] {
            assert!(allowed(&format!("{rule}, {order}}}")), "{rule}");
        }
        for rule in [
            "{match-request: {path: \"/puppet-admin-api\", type: path, method: get}, allow: \"*\"",
            "{match-request: {path: \"/puppet-admin-api\", type: path}, allow: \"c2.example\"",
            "{match-request: {path: \"/puppet-admin-api\", type: path}, deny: \"c1.example\", allow: \"*\"",
            "{match-request: {path: \"^/puppet-admin-api/v1/jruby-pool$\", type: regex}, allow: \"*\"",
        ] {
            assert!(!allowed(&format!("{rule}, {order}}}")), "{rule}");
        }
    }

    #[test]
    fn the_lowest_sort_order_decides_and_what_is_not_understood_is_called_unclear() {
        let path = "match-request: {path: \"/\", type: path}";
        let rules = format!(
            "{{{path}, allow: \"*\", sort-order: 500, name: b}}\n{{{path}, deny: \"*\", sort-order: 400, name: a}}"
        );
        assert_eq!(says(&rules), Verdict::Denied { rule: "a".into() });
        let strange = "{match-request: {path: \"^/puppet-admin-api/.*[ce]$\", type: regex}, allow: \"*\", \
                       sort-order: 1, name: strange}";
        assert_eq!(says(strange), Verdict::Unclear { rule: "strange".into() });
        let other = "{match-request: {path: \"^/puppet/v3/catalog/([^/]+)$\", type: regex}, allow: \"$1\", \
                     sort-order: 1, name: other}";
        assert_eq!(says(other), Verdict::NoRule);
    }

    #[test]
    fn nothing_is_edited_where_the_list_is_not_found_beyond_doubt() {
        for (conf, why) in [
            ("authorization: { rules: ${rules} }", "no list"),
            ("include \"rules.conf\"\nauthorization: { rules: [] }", "not understood"),
            ("authorization: { rules: [", "not understood"),
            ("other: { rules: [] }", "no list"),
            (
                "authorization: { rules: [{match-request: {path: \"/\", type: path}, deny: \"*\", \
                 sort-order: 1, name: wall}] }",
                "\"wall\" would come before",
            ),
        ] {
            let error = with_rule(conf, "c1.example").unwrap_err();
            assert!(error.contains(why), "{conf}: {error}");
        }
        let again = with_rule(&with_rule(SHIPPED, "c2.example").unwrap(), "c1.example").unwrap_err();
        assert!(again.contains("already"), "{again}");
        assert!(with_rule(SHIPPED, "c1\", allow: \"*").is_err());
    }
}
