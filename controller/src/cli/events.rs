//! `bunraku events`.

use bunraku_proto::v1::{Event, WatchRequest};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};

use super::{Failure, Output, Reach, client, output::write_on, tokens::clock_time};

/// How often it is looked whether anybody still reads.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Go on printing as things happen
    #[arg(short, long)]
    follow: bool,
    /// How many of the newest come first
    #[arg(long, default_value_t = 100, value_name = "NUMBER", conflicts_with_all = ["after", "deploy"])]
    last: u64,
    /// Start behind this sequence number (as printed with -o json); 0: with the oldest that is kept
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    /// Only this deploy
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    deploy: u64,
}

impl Events {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let all = self.after.is_some() || self.deploy != 0;
        let request = WatchRequest {
            after: self.after.unwrap_or_default(),
            from_now: !all && self.last == 0,
            deploy: self.deploy,
            follow: self.follow,
            last: if all { 0 } else { self.last },
        };
        let mut stream = client.watch(request).await?.into_inner();
        loop {
            tokio::select! {
                event = stream.message() => match event? {
                    Some(event) if print(reach.output, &event)? => {}
                    Some(_) | None => return Ok(()),
                },
                () = nobody_reads() => return Ok(()),
            }
        }
    }
}

/// Resolves when the other end of standard output is closed, as by `| head`: there may be no next event to notice it by.
async fn nobody_reads() {
    loop {
        tokio::time::sleep(LOOK).await;
        let stdout = std::io::stdout();
        let now = rustix::event::Timespec::default();
        let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
        let told = poll(&mut asked, Some(&now)).is_ok_and(|told| told > 0);
        if told && asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return;
        }
    }
}

/// False: nobody reads any more.
fn print(output: Output, event: &Event) -> Result<bool, Failure> {
    match output {
        // One line an event, so that a program can read while it comes.
        Output::Json => write_on(&format!("{}\n", serde_json::to_string(event).unwrap_or_default())),
        Output::Text => write_on(&line(event)),
    }
}

pub(super) fn line(event: &Event) -> String {
    // Most texts name who it was, and the controller goes without saying.
    let named = event.who.is_empty() || event.who == "controller" || event.text.contains(&event.who);
    let who = if named { String::new() } else { format!(" ({})", event.who) };
    // One line an event, whatever is in its reasons.
    let text = event.text.replace('\n', " ");
    format!("{}  {text}{who}\n", clock_time(event.wall_ms / 1000))
}
