//! `jincai send` and `jincai inbox`: messages by address, over the running node's API.

use crate::cli::{InboxArgs, SendArgs};
use crate::commands::{client, get, percent};
use crate::error::Error;
use crate::output::show;
use serde_json::json;

/// Sends a message; it is durable at the node when this returns.
pub(crate) fn send(args: &SendArgs) -> Result<(), Error> {
    let body = json!({
        "to": args.to, "from": args.from, "id": args.id, "class": args.class, "subject": args.subject, "text": args.text,
    });
    show(&client(&args.node)?.post_json("/api/v1/messages", &body)?, args.node.json);
    Ok(())
}

/// Shows what came, for one reader or for all.
pub(crate) fn inbox(args: &InboxArgs) -> Result<(), Error> {
    let address = args.address.as_ref().map(|address| format!("&address={}", percent(address))).unwrap_or_default();
    get(&args.node, &format!("/api/v1/messages?after={}&limit={}{address}", args.after, args.limit))
}
