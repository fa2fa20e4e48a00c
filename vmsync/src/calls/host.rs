//! What the call-flow engine asks of its host: PINs, lists, recordings, states. The engine is pure;
//! here its questions are put to the store, for whichever channel the call came by.

use std::sync::Arc;

use jiff::{Timestamp, Zoned, tz::TimeZone};
use uuid::Uuid;
use vmsync_callflows::{
    Action, Event, Flow, Heading, Item, Kept, PinAnswer, Question, Run, State, Variables,
};
use vmsync_config::words::{Extension, UnixMillis};
use vmsync_store::{
    AudioRef, GreetingKind, StoreError,
    model::{Mailbox, Message, MessageFacts, MessageState},
};

use super::{Call, NewCall};
use crate::{app::App, clock};

/// Most messages a caller goes through in one call.
const MOST_MESSAGES: usize = 1_000;

/// Where a call is.
pub(crate) struct Talk {
    pub(crate) run: Run,
    /// A recording the store could not take yet; the channel sends it again.
    pending: Option<Recording>,
    /// The last recording that was settled, for a channel that lost the answer.
    pub(crate) settled: Option<(u32, Settled)>,
}

#[derive(Clone, Copy)]
struct Recording {
    urgent: bool,
    private: bool,
}

/// What came of a recording.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    /// The message, where one was kept.
    pub(crate) message: Option<Uuid>,
    /// Why not, where it was not.
    pub(crate) refused: Option<String>,
    /// What follows.
    pub(crate) actions: Vec<Action>,
}

impl Talk {
    pub(crate) fn new(run: Run) -> Self {
        Self {
            run,
            pending: None,
            settled: None,
        }
    }

    /// Whether a recording is wanted now.
    pub(crate) fn wants_recording(&self) -> bool {
        self.pending.is_some() || self.run.takes(&Event::Recorded(0))
    }

    /// Takes `event`, answers what the engine asks, and gives what the channel is to do.
    pub(crate) async fn advance(&mut self, app: &App, new: &NewCall, event: Event) -> Vec<Action> {
        let mut actions = self.run.step(event, &local_now());
        while let Some(question) = take_question(&mut actions) {
            let event = match question {
                // Only `record` brings a recording, and it takes the question off itself.
                Question::KeepRecording { .. } => Event::Stored(Kept::Refused),
                question => answer(app, new, question).await,
            };
            actions.extend(self.run.step(event, &local_now()));
        }
        actions
    }

    /// Takes a recording. Where the store can't keep it now (a full disk), the error comes back and
    /// the call waits for the same recording again; else it is durable, or refused for good, and the call goes on.
    pub(crate) async fn record(
        &mut self,
        app: &App,
        call: &Call,
        audio: AudioRef,
        bytes: Arc<[u8]>,
    ) -> Result<Settled, StoreError> {
        let number = self.run.recording();
        let Some(recording) = self.recording(audio.bytes) else {
            return Ok(self.settle(number, None, None, Vec::new()));
        };
        self.pending = Some(recording);
        let kept = keep(app, call, number, recording, audio, bytes).await;
        let (message, refused) = match kept {
            Ok(message) => (Some(message.id), None),
            Err(error) if passing(&error) => return Err(error),
            Err(error) => (None, Some(error.to_string())),
        };
        self.pending = None;
        let kept = message.map_or(Kept::Refused, |_| Kept::Durable);
        let actions = self.advance(app, &call.new, Event::Stored(kept)).await;
        Ok(self.settle(number, message, refused, actions))
    }

    /// There is nothing worth keeping (R-MB-8), or the channel gives up what the store could not
    /// take: the flow goes on without a message.
    pub(crate) async fn nothing_recorded(
        &mut self,
        app: &App,
        new: &NewCall,
        why: String,
    ) -> Settled {
        let number = self.run.recording();
        let event = match self.pending.take() {
            Some(_) => Event::Stored(Kept::Refused),
            None => Event::Recorded(0),
        };
        let actions = self.advance(app, new, event).await;
        self.settle(number, None, Some(why), actions)
    }

    /// How the recording that came is to be kept: as asked for before, or now.
    fn recording(&mut self, bytes: u64) -> Option<Recording> {
        if self.pending.is_some() {
            return self.pending;
        }
        let mut actions = self.run.step(Event::Recorded(bytes), &local_now());
        match take_question(&mut actions) {
            Some(Question::KeepRecording {
                urgent, private, ..
            }) => Some(Recording { urgent, private }),
            _ => None,
        }
    }

    fn settle(
        &mut self,
        number: u32,
        message: Option<Uuid>,
        refused: Option<String>,
        actions: Vec<Action>,
    ) -> Settled {
        let settled = Settled {
            message,
            refused,
            actions,
        };
        self.settled = Some((number, settled.clone()));
        settled
    }
}

/// A call about to enter `flow`.
pub(crate) fn begin(flow: Arc<Flow>, new: &NewCall, mailbox: &Mailbox) -> Run {
    let c = &mailbox.counts;
    let held = c.new + c.unopened + c.old + c.saved;
    let room = mailbox
        .max_messages
        .is_none_or(|most| held < u64::from(most));
    let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let known = [
        ("mailbox", mailbox.extension.to_string()),
        ("mailbox_name", mailbox.name.clone()),
        (
            "caller_number",
            new.caller_number.clone().unwrap_or_default(),
        ),
        ("caller_name", new.caller_name.clone().unwrap_or_default()),
        ("has_pin", word(mailbox.has_pin)),
        ("takes_messages", word(mailbox.enabled && room)),
    ];
    let variables: Variables = known
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Run::start(flow, variables)
}

/// The wall clock in this system's time zone: what conditions on time of day go by.
fn local_now() -> Zoned {
    let millis = i64::try_from(clock::wall().0).unwrap_or(i64::MAX);
    let now = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX);
    now.to_zoned(TimeZone::system())
}

fn take_question(actions: &mut Vec<Action>) -> Option<Question> {
    match actions.pop() {
        Some(Action::Ask(question)) => Some(question),
        Some(other) => {
            actions.push(other);
            None
        }
        None => None,
    }
}

async fn answer(app: &App, new: &NewCall, question: Question) -> Event {
    match question {
        Question::CheckPin(pin) => Event::PinChecked(check_pin(app, &new.mailbox, pin).await),
        Question::ListMessages => Event::Messages(headings(app, &new.mailbox).await),
        Question::SetState { message, state } => {
            Event::StateSet(set_state(app, &new.mailbox, &message, state).await)
        }
        Question::KeepRecording { .. } => Event::Stored(Kept::Refused),
    }
}

async fn check_pin(app: &App, mailbox: &Extension, pin: String) -> PinAnswer {
    if !app.calls.pin_open(mailbox, clock::now()) {
        return PinAnswer::Locked;
    }
    let ext = mailbox.clone();
    match app.store(move |s| s.check_pin(&ext, &pin)).await {
        Ok(right) => app.calls.pin_tried(mailbox, right, clock::now()),
        Err(error) => {
            // Not the caller's fault, so not one of their tries.
            tracing::error!(%mailbox, %error, "a PIN could not be checked");
            PinAnswer::Wrong
        }
    }
}

async fn headings(app: &App, mailbox: &Extension) -> Option<Vec<Heading>> {
    let ext = mailbox.clone();
    let page = app
        .store(move |s| s.messages(&ext, &[], None, MOST_MESSAGES))
        .await;
    match page {
        Ok(page) => Some(page.items.into_iter().map(heading).collect()),
        Err(error) => {
            tracing::error!(%mailbox, %error, "messages could not be listed for a call");
            None
        }
    }
}

fn heading(message: Message) -> Heading {
    Heading {
        id: message.id.to_string(),
        state: match message.state {
            MessageState::New => State::New,
            MessageState::Unopened => State::Unopened,
            MessageState::Old => State::Old,
            MessageState::Saved => State::Saved,
            MessageState::Deleted => State::Deleted,
        },
        caller: message.facts.caller_number.unwrap_or_default(),
        received: message
            .facts
            .received_at
            .map(|t| t.to_string())
            .unwrap_or_default(),
        duration_ms: message.audio.duration_ms,
        urgent: message.facts.urgent,
    }
}

async fn set_state(app: &App, mailbox: &Extension, message: &str, state: State) -> bool {
    let Ok(id) = message.parse::<Uuid>() else {
        return false;
    };
    let state = match state {
        State::New => MessageState::New,
        State::Unopened => MessageState::Unopened,
        State::Old => MessageState::Old,
        State::Saved => MessageState::Saved,
        State::Deleted => MessageState::Deleted,
    };
    let set = app.store(move |s| s.set_message_state(id, state)).await;
    if let Err(error) = &set {
        tracing::warn!(%mailbox, message, %error, "a call could not change a message's state");
    }
    set.is_ok()
}

/// Deposits a recording durably; the same recording of the same call twice is one message.
async fn keep(
    app: &App,
    call: &Call,
    number: u32,
    recording: Recording,
    audio: AudioRef,
    bytes: Arc<[u8]>,
) -> Result<Message, StoreError> {
    let facts = MessageFacts {
        caller_number: call.new.caller_number.clone(),
        caller_name: call.new.caller_name.clone(),
        called_number: None,
        received_at: Some(clock::wall()),
        urgent: recording.urgent,
        private: recording.private,
        taken_by: Some(app.config.node.id.clone()),
        source_id: Some(format!("call:{}:{number}", call.id)),
    };
    let ext = call.new.mailbox.clone();
    let (message, _) = app
        .store(move |s| s.deposit(&ext, facts, audio, &bytes))
        .await?;
    app.acknowledged(&message).await;
    Ok(message)
}

/// Whether the same deposit may succeed later.
fn passing(error: &StoreError) -> bool {
    !matches!(
        error,
        StoreError::NotFound { .. }
            | StoreError::Disabled(_)
            | StoreError::MailboxFull(_)
            | StoreError::Conflict(_)
            | StoreError::Invalid(_)
    )
}

/// A thing to be heard with its audio, where the store has it.
pub(crate) enum Heard {
    /// As the engine says it.
    Item(Item),
    /// A greeting or recorded name.
    Greeting(Extension, GreetingKind),
    /// A message of the call's mailbox.
    Message(String),
}

/// Finds the audio of greetings, names and messages (R-MB-7).
pub(crate) async fn heard(app: &App, item: Item) -> Heard {
    match item {
        Item::Message(id) => Heard::Message(id),
        Item::Greeting(mailbox) => {
            let found = greeting(
                app,
                &mailbox,
                &[GreetingKind::Temporary, GreetingKind::Standard],
            )
            .await;
            found.unwrap_or_else(|| Heard::Item(Item::Prompt("default-greeting".to_owned())))
        }
        Item::Name(mailbox) => {
            let found = greeting(app, &mailbox, &[GreetingKind::Name]).await;
            found.unwrap_or(Heard::Item(Item::Digits(mailbox)))
        }
        item => Heard::Item(item),
    }
}

/// The first of `kinds` that is set and holds now.
async fn greeting(app: &App, mailbox: &str, kinds: &'static [GreetingKind]) -> Option<Heard> {
    let ext = Extension::new(mailbox).ok()?;
    let of = ext.clone();
    let holds = |until: Option<UnixMillis>, now: UnixMillis| until.is_none_or(|end| now < end);
    let now = clock::wall();
    let find = move |s: &vmsync_store::Store| {
        for kind in kinds {
            if s.greeting(&of, *kind)?.is_some_and(|g| holds(g.until, now)) {
                return Ok(Some(*kind));
            }
        }
        Ok(None)
    };
    match app.store(find).await {
        Ok(kind) => kind.map(|kind| Heard::Greeting(ext, kind)),
        Err(error) => {
            tracing::error!(mailbox, %error, "a greeting could not be read; the default is played");
            None
        }
    }
}
