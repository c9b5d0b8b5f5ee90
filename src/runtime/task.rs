//! Futures bound to their process: tasks that notify their waiters when they end,
//! and calls that a forked child does not run.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

use crate::runtime::origin::ProcessOrigin;

/// Spawns `work` on the current runtime, and calls `over` once it has ended: done,
/// aborted, panicked, or dropped with its runtime.
///
/// A forked child neither polls nor drops `work`. Both would act on the parent's
/// resources: polling reads answers that belong to the parent, and dropping a
/// socket shuts it down.
pub(crate) fn spawn(
    work: impl Future<Output = ()> + Send + 'static,
    over: impl FnOnce() + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(Task {
        origin: ProcessOrigin::here(),
        work: Some(Box::pin(work)),
        over: Some(Box::new(over)),
    })
}

struct Task {
    origin: ProcessOrigin,
    work: Option<Boxed<()>>,
    over: Option<Box<dyn FnOnce() + Send>>,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.origin.is_elsewhere() {
            return Poll::Pending;
        }
        match &mut self.work {
            Some(work) => work.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let (work, over) = (self.work.take(), self.over.take());
        if self.origin.is_elsewhere() {
            std::mem::forget((work, over));
            return;
        }
        drop(work);
        if let Some(over) = over {
            over();
        }
    }
}

/// A future of the process that made it. In a forked child it returns `elsewhere`
/// at once: the event that it waits for happens in the parent, and the locks that
/// it takes may be held by threads that the child does not have.
pub(crate) struct SameProcess<T> {
    origin: ProcessOrigin,
    work: Option<Boxed<T>>,
    elsewhere: fn() -> T,
}

impl<T> SameProcess<T> {
    pub(crate) fn new(
        origin: &ProcessOrigin,
        work: impl Future<Output = T> + Send + 'static,
        elsewhere: fn() -> T,
    ) -> Self {
        Self {
            origin: origin.clone(),
            work: Some(Box::pin(work)),
            elsewhere,
        }
    }
}

impl<T> Future for SameProcess<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if self.origin.is_elsewhere() {
            return Poll::Ready((self.elsewhere)());
        }
        match &mut self.work {
            Some(work) => work.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for SameProcess<T> {
    fn drop(&mut self) {
        if self.origin.is_elsewhere() {
            std::mem::forget(self.work.take());
        }
    }
}

impl<T> fmt::Debug for SameProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtHome").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Waiters for a task are notified of every kind of end.
    #[test]
    fn the_end_of_a_task_is_reported_once() {
        type Work = fn() -> Boxed<()>;
        let ways: [(&str, Work, bool); 4] = [
            ("done", || Box::pin(std::future::ready(())), false),
            (
                "panicked",
                || Box::pin(async { panic!("on purpose") }),
                false,
            ),
            ("aborted", || Box::pin(std::future::pending()), true),
            (
                "dropped with its runtime",
                || Box::pin(std::future::pending()),
                false,
            ),
        ];
        for (way, work, is_aborted) in ways {
            let reported = Arc::new(AtomicUsize::new(0));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                let over = Arc::clone(&reported);
                let task = spawn(work(), move || {
                    over.fetch_add(1, Ordering::Relaxed);
                });
                tokio::task::yield_now().await;
                if is_aborted {
                    task.abort();
                }
            });
            drop(runtime);
            assert_eq!(reported.load(Ordering::Relaxed), 1, "{way}");
        }
    }
}
