//! What others say, made fit to be kept and shown: bounded, and without anything that moves a cursor. A compromised
//! compiler speaks through every text that it sends, into the journal and onto an operator's terminal.

use bunraku_proto::v1::{
    BalancerStatusReply, CertificateOnNode, CertificatesReply, Finding, HealReply, HelloReply, ObserveReply,
    SetUpCompilerReply,
};

/// Of one text.
const WORDS: usize = 8 << 10;
/// Of one short text: a version, a name, a path.
const WORD: usize = 1 << 10;
/// Texts of one list.
const LISTED: usize = 1000;
/// Environments of one node that are listened to: what it says of them goes into the journal and the state (I10).
const ENVIRONMENTS: usize = 2000;
/// Versions that a node names of one environment.
const VERSIONS: usize = 64;

/// A reason, a note, a failure.
pub(crate) fn plain(words: &str) -> String {
    cleaned(words, WORDS)
}

/// A version, a name, a path.
pub(crate) fn word(text: &str) -> String {
    cleaned(text, WORD)
}

/// Whether a text that somebody gives as a reason is one.
pub(crate) fn is_plain(words: &str) -> bool {
    words.len() <= WORD && words.chars().all(|c| !moves(c))
}

pub(crate) fn hello(mut reply: HelloReply) -> HelloReply {
    reply.version = word(&reply.version);
    reply.instance = word(&reply.instance);
    reply.abilities = list(reply.abilities);
    reply.anchors = list(reply.anchors);
    reply.observed = reply.observed.map(observed);
    reply
}

pub(crate) fn observed(mut reply: ObserveReply) -> ObserveReply {
    reply.puppetserver = word(&reply.puppetserver);
    if let Some(crl) = &mut reply.crl {
        (crl.digest, crl.owed, crl.unread) = (word(&crl.digest), word(&crl.owed), word(&crl.unread));
    }
    reply.environments.truncate(ENVIRONMENTS);
    for on_node in &mut reply.environments {
        on_node.environment = word(&on_node.environment);
        on_node.live = word(&on_node.live);
        on_node.owed = word(&on_node.owed);
        on_node.versions.truncate(VERSIONS);
        on_node.versions.iter_mut().for_each(|version| *version = word(version));
        // A node names a hundred at most.
        on_node.drift.truncate(100);
        on_node.drift.iter_mut().for_each(|path| *path = word(path));
    }
    reply
}

/// Of one node.
pub(crate) fn certificates(reply: CertificatesReply) -> Vec<CertificateOnNode> {
    let bounded = reply.certificates.into_iter().take(LISTED).map(|mut told| {
        for text in [
            &mut told.what,
            &mut told.r#where,
            &mut told.subject,
            &mut told.issuer,
            &mut told.serial,
            &mut told.fingerprint,
            &mut told.trouble,
        ] {
            *text = word(text);
        }
        told.dns_alt_names.truncate(100);
        told.dns_alt_names.iter_mut().for_each(|name| *name = word(name));
        told
    });
    bounded.collect()
}

pub(crate) fn healed(mut reply: HealReply) -> HealReply {
    reply.mended = list(reply.mended);
    reply
}

/// A balancer that names more than it can have is in trouble, and what it says of the rest with it.
pub(crate) fn balancer(mut reply: BalancerStatusReply) -> BalancerStatusReply {
    reply.driver = word(&reply.driver);
    reply.trouble = plain(&reply.trouble);
    if reply.servers.len() > LISTED || reply.backends.len() > LISTED {
        reply.trouble = format!("it names more than {LISTED} servers");
    }
    reply.servers.truncate(LISTED);
    reply.backends.truncate(LISTED);
    for server in &mut reply.servers {
        let short = [
            &mut server.compiler,
            &mut server.backend,
            &mut server.server,
            &mut server.admin,
            &mut server.health,
            &mut server.wanted,
            &mut server.owner,
            &mut server.reason,
        ];
        short.into_iter().for_each(|text| *text = word(text));
    }
    for backend in &mut reply.backends {
        backend.backend = word(&backend.backend);
    }
    reply.unmapped = list(reply.unmapped);
    reply.alarms = list(reply.alarms);
    reply
}

/// What a host says of its setup as a compiler.
pub(crate) fn set_up(mut reply: SetUpCompilerReply) -> SetUpCompilerReply {
    reply.changes = list(reply.changes);
    reply.findings = findings(reply.findings);
    (reply.refused, reply.hint) = (plain(&reply.refused), plain(&reply.hint));
    reply
}

pub(crate) fn findings(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.truncate(LISTED);
    for finding in &mut findings {
        finding.check = word(&finding.check);
        finding.found = plain(&finding.found);
        finding.mend = plain(&finding.mend);
    }
    findings
}

fn list(mut texts: Vec<String>) -> Vec<String> {
    texts.truncate(LISTED);
    texts.iter_mut().for_each(|text| *text = word(text));
    texts
}

fn cleaned(text: &str, most: usize) -> String {
    let text = &text[..text.floor_char_boundary(most)];
    let mut cleaned: String = text.chars().map(|c| if moves(c) { '\u{fffd}' } else { c }).collect();
    // What stands for a control character is longer than one.
    cleaned.truncate(cleaned.floor_char_boundary(most));
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

/// Control characters, and those that turn the direction of writing around.
fn moves(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use bunraku_proto::v1::BalancedServer;

    use super::*;

    #[test]
    fn what_moves_a_cursor_is_replaced_and_what_people_write_stays() {
        assert_eq!(plain("a\u{1b}[2Jb\r\u{202e}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        assert_eq!(plain("two\nlines\tand Größe\n"), "two\nlines\tand Größe");
        assert!(is_plain("new disk") && !is_plain("\u{7}"));
    }

    #[test]
    fn i10_a_balancer_that_names_too_much_is_bounded_and_in_trouble() {
        let server = BalancedServer { owner: "x".repeat(WORDS), ..BalancedServer::default() };
        let servers = vec![server; LISTED + 1];
        let said = balancer(BalancerStatusReply { servers, ..BalancerStatusReply::default() });
        assert!(!said.trouble.is_empty() && said.servers.len() == LISTED);
        assert_eq!(said.servers[0].owner.len(), WORD);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert!(plain(&"ä".repeat(WORDS)).len() <= WORDS);
        assert!(plain(&"\u{1}".repeat(WORDS)).len() <= WORDS);
        assert!(!is_plain(&"a".repeat(WORD + 1)));
    }
}
