//! Messages about a transfer, each at the moment at which its end waits for it.

use crate::Verdict;
use crate::world::{NOW, NoParts, delivery, world};
use jincai_exchange::{Decision, Outgoing, Place, Room};
use jincai_files::{
    CHUNK, END, FileKey, Files, MemoryStore, Mood, OFFER, PAGE, RECEIVED, Report, Staged, Store, Submission, WANT,
};
use jincai_types::{Attributes, AuthorityId, Destination, Lane, Priority};
use std::sync::LazyLock;

const ID: &str = "transfer";
const CONTENT: &[u8] = b"what a county sends";

/// A message on its way, and the room that gets it, as a snapshot keeps it.
pub(crate) struct Moment {
    pub(crate) name: &'static str,
    kind: &'static str,
    from: AuthorityId,
    to: AuthorityId,
    room: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// The two ends of a transfer.
struct End {
    me: AuthorityId,
    room: Files,
}

impl End {
    fn new(me: AuthorityId) -> Self {
        Self { me, room: Files::new(me) }
    }

    /// One that comes back from a snapshot.
    fn of(me: AuthorityId, room: &[u8]) -> Self {
        let mut end = Self::new(me);
        end.room.load(room).expect("what was saved can be loaded");
        end
    }

    fn apply(&mut self, effect: &[u8]) {
        self.room.apply(&Place { number: 1, offset: 0, cause: None }, effect).expect("what was decided applies");
    }

    /// Carries a decision out; the payload of the one message that it sets off, if any.
    fn take(&mut self, Staged { effect, messages }: Staged) -> Vec<u8> {
        self.apply(&effect);
        messages.into_iter().next().map(|message| message.payload).unwrap_or_default()
    }

    fn report(&mut self, report: Report) -> Vec<u8> {
        let staged = self.room.report(NOW, report).expect("it means something");
        self.take(staged)
    }

    fn wants(&mut self) -> Vec<u8> {
        let (_, staged) = self.room.next_wants(NOW).pop().expect("there is something to ask for");
        self.take(staged)
    }

    /// What it makes of a message: the effect, which is applied, and what it says at once.
    fn hear(&mut self, from: AuthorityId, kind: &str, payload: &[u8]) -> Option<Vec<Outgoing>> {
        let lane = Lane { origin: from, destination: Destination::Authority(self.me), class: Priority::Bulk };
        let (id, kind, subject) = ("1".into(), kind.into(), ID.into());
        let attributes = Attributes { id, kind, subject, ..Attributes::default() };
        match self.room.decide(NOW, &delivery(lane, &attributes, payload), &NoParts) {
            Decision::Apply { effect, messages } => {
                assert!(effect.len() <= jincai_journal::RECORD_BYTES_MAX);
                self.apply(&effect);
                Some(messages)
            }
            _ => None,
        }
    }
}

/// Every message of a transfer, in order.
pub(crate) fn story() -> &'static [Moment] {
    static STORY: LazyLock<Vec<Moment>> = LazyLock::new(tell);
    &STORY
}

fn tell() -> Vec<Moment> {
    let [to, from, _] = world().ids;
    let (mut source, mut sink, mut story) = (End::new(from), End::new(to), Vec::new());
    let mut say = |name, kind, speaker: &End, hearer: &mut End, payload: Vec<u8>| {
        let (from, to, room) = (speaker.me, hearer.me, hearer.room.save());
        assert!(hearer.hear(from, kind, &payload).is_some(), "{name}: its payload is good");
        story.push(Moment { name, kind, from, to, room, payload });
    };
    let store = MemoryStore::new(1 << 20);
    let tree = store.take(CONTENT).expect("there is room");
    let (root, key) = (tree.root, FileKey { origin: from, id: ID.into() });
    let (name, media) = ("a.txt".into(), "text/plain".into());
    let submitted = source.room.submit(NOW, Submission { to, id: ID.into(), name, media, tree });
    let offer = source.take(submitted.expect("a good file").expect("a new one"));
    say("offer", OFFER, &source, &mut sink, offer);
    sink.report(Report::Begun { key: key.clone() });
    let want = sink.wants();
    say("want-page", WANT, &sink, &mut source, want);
    let pages = vec![(0, store.page(&root, 0).expect("it is there"))];
    let page = source.report(Report::Sent { key: key.clone(), pages, chunks: Vec::new() });
    say("page", PAGE, &source, &mut sink, page);
    sink.report(Report::Checked { key: key.clone(), page: 0, upto: 1, known: Vec::new() });
    let want = sink.wants();
    say("want-chunk", WANT, &sink, &mut source, want);
    let given_up = source.room.give_up(NOW, &key).expect("it is under way");
    let end = given_up.messages.into_iter().next().expect("the other end hears of it").payload;
    say("end", END, &source, &mut End::of(to, &sink.room.save()), end);
    let chunks = vec![(0, CONTENT.to_vec())];
    let chunk = source.report(Report::Sent { key: key.clone(), pages: Vec::new(), chunks });
    say("chunk", CHUNK, &source, &mut sink, chunk);
    sink.report(Report::Stored { key: key.clone(), chunks: vec![0] });
    let received = sink.report(Report::Completed { key });
    say("received", RECEIVED, &sink, &mut source, received);
    story
}

/// A message: after the place in [`story`] whose moment it is, its payload.
pub(crate) fn transfer(bytes: &[u8]) -> Verdict {
    let Some((at, payload)) = bytes.split_first() else { return Verdict::Refused };
    let moment = &story()[usize::from(*at) % story().len()];
    let mut end = End::of(moment.to, &moment.room);
    let Some(said) = end.hear(moment.from, moment.kind, payload) else { return Verdict::Refused };
    said.iter().for_each(|message| message.attributes.check().expect("what it says can be sent"));
    // Whatever it has become asks for what there is, and comes back from a snapshot.
    for (_, staged) in end.room.next_wants(NOW) {
        end.take(staged);
    }
    let mood = Mood { eager: true, retry: true };
    assert!(end.room.receiving_jobs(mood).len() + end.room.sending_jobs(None, mood, &|_| true).len() <= 8);
    let saved = end.room.save();
    assert_eq!(End::of(end.me, &saved).room.save(), saved);
    Verdict::Accepted
}
