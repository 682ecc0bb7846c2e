//! The node that is asked.

use bytes::Bytes;

use super::carry;
use super::wire::{self, Answer, Failure, Opening, Question};
use crate::agent::{Agent, AgentError};
use crate::peers::{RecvHalf, Refusal, RefusalKind, SendHalf};
use crate::state::encoding;

/// Answers what came for [`super::ASK`].
pub async fn call(agent: &dyn Agent, question: &[u8]) -> Result<Bytes, Refusal> {
    let answered = answer(agent, wire::read(question)?).await;
    write(&answered.unwrap_or_else(|error| failed(&error)))
}

/// Serves a stream that was opened for [`super::OPEN`], to its end.
pub async fn open(agent: &dyn Agent, first: &[u8], send: SendHalf, receive: RecvHalf) {
    match wire::read(first) {
        Ok(opening) => begin(agent, opening, send, receive).await,
        // An error: nobody wants to know any more.
        Err(refusal) => drop(send.fail(&refusal)),
    }
}

fn failed(error: &AgentError) -> Answer {
    Answer::Failed {
        failure: Failure::from(error),
    }
}

fn write(answer: &Answer) -> Result<Bytes, Refusal> {
    let written = encoding::encode(answer);
    written
        .map(Bytes::from)
        .map_err(|e| Refusal::new(RefusalKind::Failed, e.to_string()))
}

async fn answer(agent: &dyn Agent, question: Question) -> Result<Answer, AgentError> {
    let done = |()| Answer::Done {};
    match question {
        Question::Signal { container, signal } => agent.signal(&container, signal).await.map(done),
        Question::Resize { container, size } => {
            let resized = agent.resize(&container, size.rows, size.columns).await;
            resized.map(done)
        }
        Question::WrittenBytes { container } => {
            let bytes = agent.written_bytes(&container).await?;
            Ok(Answer::Bytes { bytes })
        }
        Question::Processes { container } => {
            let processes = agent.processes(&container).await?;
            let processes = processes.into_iter().map(Into::into).collect();
            Ok(Answer::Processes { processes })
        }
        Question::ExecCreate { container, spec } => {
            let exec = agent.exec_create(&container, spec).await?;
            Ok(Answer::Exec { exec })
        }
        Question::ExecResize { exec, size } => {
            let resized = agent.exec_resize(&exec, size.rows, size.columns).await;
            resized.map(done)
        }
        Question::ExecStatus { exec } => {
            let status = agent.exec_status(&exec).await?;
            Ok(Answer::ExecStatus { status })
        }
        Question::Execs { container } => {
            let execs = agent.execs(&container).await;
            Ok(Answer::Execs { execs })
        }
        Question::Node {} => {
            let node = agent.node().await;
            Ok(Answer::Node { node })
        }
    }
}

/// What an opening has led to.
enum Begun {
    Process(crate::agent::Attached),
    Log(crate::agent::LogStream),
    Happenings(crate::agent::Happenings),
}

async fn begin(agent: &dyn Agent, opening: Opening, mut send: SendHalf, receive: RecvHalf) {
    let begun = async {
        match opening {
            Opening::Attach { container, stdin } => {
                agent.attach(&container, stdin).await.map(Begun::Process)
            }
            Opening::ExecStart { exec, size } => {
                let size = size.map(|size| (size.rows, size.columns));
                agent.exec_start(&exec, size).await.map(Begun::Process)
            }
            Opening::Logs { container, options } => {
                agent.logs(&container, options).await.map(Begun::Log)
            }
            Opening::Happenings {} => agent.happenings().await.map(Begun::Happenings),
        }
    };
    let begun = begun.await;
    let answer = match &begun {
        Ok(Begun::Process(attached)) => Answer::Open {
            input: attached.input.is_some(),
        },
        Ok(Begun::Log(_) | Begun::Happenings(_)) => Answer::Open { input: false },
        Err(error) => failed(error),
    };
    let answer = match write(&answer) {
        Ok(answer) => answer,
        // Errors from here on: nobody wants to know any more.
        Err(refusal) => return drop(send.fail(&refusal)),
    };
    if send.send(answer).await.is_err() {
        return;
    }
    match begun {
        Ok(Begun::Process(attached)) => carry::serve(attached, send, receive).await,
        Ok(Begun::Log(log)) => carry::serve_log(log, send, receive).await,
        Ok(Begun::Happenings(all)) => carry::serve_happenings(all, send, receive).await,
        Err(_) => drop(send.finish()),
    }
}
