//! The least that a gRPC call can cost: tonic's own server, a handler that answers at once.

use std::{io::Read as _, net::SocketAddr};

use anyhow::Context as _;
use clap::Args;
use countersign_proto::v1::{
    self,
    approvals_server::{Approvals, ApprovalsServer},
};
use futures::{StreamExt as _, stream::BoxStream};
use tonic::{Request, Response, Status};

/// As many bytes in the answer as were sent, about.
const PADDING: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// `countersign bench-parts calls`
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    println!("http://{}", listener.local_addr()?);
    let connections = tokio_stream::wrappers::TcpListenerStream::new(listener).map(|connection| {
        connection.inspect(|connection| {
            let _ = connection.set_nodelay(true);
        })
    });
    let (closed, stdin_is_closed) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = closed.send(());
    });
    let served = tonic::transport::Server::builder()
        .add_service(ApprovalsServer::new(Bare))
        .serve_with_incoming_shutdown(connections, async {
            let _ = stdin_is_closed.await;
        });
    Ok(served.await?)
}

struct Bare;

type Updates = BoxStream<'static, Result<v1::ApprovalUpdate, Status>>;

#[tonic::async_trait]
impl Approvals for Bare {
    type RequestApprovalStream = Updates;
    type WatchApprovalStream = Updates;

    async fn get_approval(
        &self,
        request: Request<v1::GetApprovalRequest>,
    ) -> Result<Response<v1::Approval>, Status> {
        let approval_id = request.into_inner().approval_id + PADDING;
        Ok(Response::new(v1::Approval { approval_id, ..v1::Approval::default() }))
    }

    async fn request_approval(
        &self,
        _: Request<v1::RequestApprovalRequest>,
    ) -> Result<Response<Updates>, Status> {
        Err(nothing_else())
    }

    async fn watch_approval(
        &self,
        _: Request<v1::WatchApprovalRequest>,
    ) -> Result<Response<Updates>, Status> {
        Err(nothing_else())
    }

    async fn open_approval(
        &self,
        _: Request<v1::RequestApprovalRequest>,
    ) -> Result<Response<v1::OpenApprovalReply>, Status> {
        Err(nothing_else())
    }

    async fn wait_approval(
        &self,
        _: Request<v1::WaitApprovalRequest>,
    ) -> Result<Response<v1::Approval>, Status> {
        Err(nothing_else())
    }

    async fn cancel_approval(
        &self,
        _: Request<v1::CancelApprovalRequest>,
    ) -> Result<Response<v1::Outcome>, Status> {
        Err(nothing_else())
    }
}

fn nothing_else() -> Status {
    Status::unimplemented("GetApproval is what is measured")
}
