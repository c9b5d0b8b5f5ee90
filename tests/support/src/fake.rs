//! Fake servers, which send the answers that a test chooses.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::RedisServer;

/// What a fake server answers to each chunk of bytes that it receives.
#[derive(Clone, Debug)]
pub enum Answers {
    /// Nothing, ever.
    Nothing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, and then it hangs up.
    Last(Vec<u8>),
    /// The answers of a real server.
    Truth,
}

/// A listener on a loopback port; it ends when dropped.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    task: JoinHandle<()>,
}

impl Fake {
    /// A server that gives these answers.
    pub async fn answering(answers: Answers) -> Self {
        Self::start(answers, None).await
    }

    /// A server that forwards everything to `server`, until [`Self::answer`].
    pub async fn before(server: &RedisServer) -> Self {
        Self::start(Answers::Truth, Some(server.socket())).await
    }

    async fn start(answers: Answers, real: Option<std::path::PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let answers = Arc::new(Mutex::new(answers));
        let shared = Arc::clone(&answers);
        let task = tokio::spawn(async move {
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (answers, real) = (Arc::clone(&shared), real.clone());
                clients.spawn(async move {
                    let real = match real {
                        Some(path) => Some(UnixStream::connect(path).await.expect("the server")),
                        None => None,
                    };
                    serve(client, real, &answers).await;
                });
            }
        });
        Self {
            address,
            answers,
            task,
        }
    }

    /// Changes its answers from now on.
    pub fn answer(&self, answers: Answers) {
        *self.answers.lock() = answers;
    }

    /// The node URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends when either side hangs up: the other side notices that itself.
async fn serve(mut client: TcpStream, mut real: Option<UnixStream>, answers: &Mutex<Answers>) {
    let (mut asked, mut reported) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        let from_real = async {
            match &mut real {
                Some(real) => real.read(&mut reported).await.unwrap_or(0),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = client.read(&mut asked) => {
                let read = read.unwrap_or(0);
                let now = answers.lock().clone();
                let (bytes, is_last) = match now {
                    _ if read == 0 => return,
                    Answers::Nothing => continue,
                    Answers::Bytes(bytes) => (bytes, false),
                    Answers::Last(bytes) => (bytes, true),
                    Answers::Truth => {
                        let real = real.as_mut().expect("a real server");
                        if real.write_all(&asked[..read]).await.is_err() { return }
                        continue;
                    }
                };
                if client.write_all(&bytes).await.is_err() || is_last { return }
            }
            read = from_real => {
                if read == 0 || client.write_all(&reported[..read]).await.is_err() { return }
            }
        }
    }
}
