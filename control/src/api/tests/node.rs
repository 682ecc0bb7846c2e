//! A node to ask: its API on a socket of this machine, and clients with certificates of its owner.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use super::super::*;
use crate::agent::keeper::Keeper;
use crate::agent::local::tests::{Notes, monitor, paths};
use crate::agent::local::{LocalAgent, LocalConfig};
use crate::agent::{Agents, NodeInfo, Weakness};
use crate::controller::{Reporter, Watchers};
use crate::lease::{BootTime, Deadline, NodeLease};
use crate::network::{Network, NetworkConfig};
use crate::raft::Replica;
use crate::state::{Command, FEATURES, NodeIs, NodeWanted, address};

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: rcgen::Certificate,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// A client's certificate.
    pub fn issue(&self, organisation: Option<&str>) -> (rcgen::Certificate, KeyPair) {
        self.issue_for(organisation, &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// A certificate for these purposes; for none, one without the extension.
    pub fn issue_for(
        &self,
        organisation: Option<&str>,
        purposes: &[ExtendedKeyUsagePurpose],
    ) -> (rcgen::Certificate, KeyPair) {
        self.sign(organisation, purposes, None)
    }

    /// A client's certificate of this number.
    pub fn issue_of(
        &self,
        organisation: &str,
        number: SerialNumber,
    ) -> (rcgen::Certificate, KeyPair) {
        let purposes = [ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(Some(organisation), &purposes, Some(number))
    }

    /// A list, of its own number, of certificates that are taken back, by their numbers; PEM.
    pub fn list(&self, list: u64, revoked: &[u64]) -> String {
        let revoked: Vec<_> = revoked.iter().map(|it| SerialNumber::from(*it)).collect();
        self.list_of(list, &revoked)
    }

    /// The same, of any numbers.
    pub fn list_of(&self, list: u64, revoked: &[SerialNumber]) -> String {
        let this_update = date_time_ymd(2025, 1, 1);
        let revoked = revoked.iter().map(|number| RevokedCertParams {
            serial_number: number.clone(),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update,
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(list),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn sign(
        &self,
        organisation: Option<&str>,
        purposes: &[ExtendedKeyUsagePurpose],
        number: Option<SerialNumber>,
    ) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["node".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "somebody");
        if let Some(organisation) = organisation {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organisation);
        }
        params.extended_key_usages = purposes.to_vec();
        params.serial_number = number;
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

impl Ca {
    /// A CA below this one, for one purpose.
    pub fn intermediate(&self, purpose: ExtendedKeyUsagePurpose) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
            .distinguished_name
            .push(DnType::CommonName, "between");
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// A node's configuration with a certificate for these purposes.
    pub fn server_config(&self, purposes: &[ExtendedKeyUsagePurpose]) -> Result<Clients, TlsError> {
        let (certificate, key) = self.issue_for(None, purposes);
        Clients::met_by(
            &self.certificate.pem(),
            &certificate.pem(),
            &key.serialize_pem(),
        )
    }
}

pub struct Server {
    pub ca: Ca,
    pub controller: Controller,
    pub clients: Clients,
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
    dir: tempfile::TempDir,
}

/// A certificate with those that vouch for it, and its key.
pub type Chain = (Vec<CertificateDer<'static>>, KeyPair);

/// A client's end of a connection.
pub struct Client(http1::SendRequest<Full<Bytes>>);

pub async fn controller(dir: &Path) -> Controller {
    let files = paths(dir);
    monitor::script(dir);
    crate::agent::local::template(&files.templates, "empty", &[1; 4096]);
    std::fs::write(&files.kernel, "").unwrap();
    std::fs::write(&files.initramfs, "").unwrap();
    let watchers = Arc::new(Watchers::default());
    let replica = Replica::open(&dir.join("raft"), 1, Arc::<Watchers>::clone(&watchers))
        .await
        .unwrap();
    let images = hearth_image::Store::open(&dir.join("images"), Default::default())
        .await
        .unwrap();
    let network = NetworkConfig {
        pods: address::NETWORK,
        prefix: address::PREFIX,
        gateway: address::GATEWAY,
    };
    let network = Network::start_on(Box::new(Notes::default()), network).unwrap();
    let reporter = Reporter::new(replica.clone(), &watchers);
    let lease = NodeLease::open(&dir.join("lease"), Arc::new(BootTime::now)).unwrap();
    let _ = lease.extend(Deadline::Never);
    let config = LocalConfig {
        id: replica.node(),
        paths: files,
        node: NodeInfo {
            storage: "ram".to_owned(),
            storage_note: "no disk".to_owned(),
            siblings: true,
            weaknesses: [
                ("mds", "Mitigation: Clear CPU buffers, SMT vulnerable"),
                ("spectre_v1", "Mitigation: usercopy/swapgs barriers"),
            ]
            .map(|(name, state)| Weakness {
                name: name.to_owned(),
                state: state.to_owned(),
            })
            .into(),
            ..NodeInfo::default()
        },
        dns: vec![],
        siblings: false,
        layer_bytes: 0,
        lease,
    };
    let agent = LocalAgent::new(config, images.clone(), network, Arc::new(reporter))
        .await
        .unwrap();
    let join = Command::Join {
        node: replica.node(),
        at_ns: 0,
        is: Box::new(NodeIs {
            features: FEATURES,
            ..NodeIs::default()
        }),
        wanted: NodeWanted::default(),
    };
    replica.propose(join).await.unwrap().unwrap();
    let agent = Arc::new(agent);
    let agents = Agents::alone(replica.node(), Arc::<LocalAgent>::clone(&agent));
    let controller = Controller::new(replica.clone(), watchers, agents, images);
    let (keeper, waker) = Keeper::new(replica, agent, Arc::new(controller.clone()));
    controller.observe(vec![waker]);
    keeper.begin(false).await;
    controller
}

pub async fn server() -> Server {
    server_with(|_| ()).await
}

/// As [`server`], with something done to its controller before it answers.
pub async fn server_with(prepare: impl FnOnce(&Controller)) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let tls = ca
        .server_config(&[ExtendedKeyUsagePurpose::ServerAuth])
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let controller = controller(dir.path()).await;
    prepare(&controller);
    let task = tokio::spawn(serve(
        Arc::new(SetOnce::new_with(Some(controller.clone()))),
        listener,
        tls.clone(),
    ));
    Server {
        ca,
        controller,
        clients: tls,
        address,
        _task: AbortOnDropHandle::new(task),
        dir,
    }
}

/// The door of a locked node.
pub async fn server_at(door: Arc<dyn Door>) -> Server {
    let server = server().await;
    let purposes = [ExtendedKeyUsagePurpose::ServerAuth];
    let clients = server.ca.server_config(&purposes).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { serve_locked(door, &listener, &clients).await });
    Server {
        address,
        _task: AbortOnDropHandle::new(task),
        ..server
    }
}

impl Server {
    /// A connection whose handshake is done, as far as a client of TLS 1.3 can tell.
    pub async fn connect(
        &self,
        identity: Option<(rcgen::Certificate, KeyPair)>,
    ) -> io::Result<Client> {
        self.connect_with(identity.map(|(certificate, key)| (vec![certificate.der().clone()], key)))
            .await
    }

    /// As [`Server::connect`], with a chain of certificates.
    pub async fn connect_with(&self, identity: Option<Chain>) -> io::Result<Client> {
        let stream = self.stream(identity).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Ok(Client(sender))
    }

    /// A second store over this node's images, which only reads.
    pub async fn images(&self) -> hearth_image::Store {
        hearth_image::Store::open(&self.dir.path().join("images"), Default::default())
            .await
            .unwrap()
    }

    /// Where the containers' own directories are.
    pub fn containers(&self) -> std::path::PathBuf {
        paths(self.dir.path()).containers
    }

    /// Every byte that a client gets until it is hung up on.
    pub async fn told(&self, identity: Option<Chain>) -> Vec<u8> {
        let mut told = Vec::new();
        // TLS 1.3 tells a client of its refusal with the first thing it reads.
        if let Ok(mut stream) = self.stream(identity).await {
            let asked = stream.write_all(b"GET /_ping HTTP/1.1\r\nhost: node\r\n\r\n");
            if asked.await.is_ok() {
                // An error is a refusal as well; what came before it would be there.
                let _ = stream.read_to_end(&mut told).await;
            }
        }
        told
    }

    /// A connection without TLS.
    pub async fn tcp(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.address).await
    }

    /// A connection to say something else than a client of HTTP would.
    pub async fn stream(&self, identity: Option<Chain>) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let stream = self.tcp().await?;
        let name = ServerName::try_from("node").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    /// A tenant's certificate, as [`Server::stream`] takes it.
    pub fn identity(&self, organisation: &str) -> Option<Chain> {
        let (certificate, key) = self.ca.issue(Some(organisation));
        Some((vec![certificate.der().clone()], key))
    }

    pub async fn client(&self, organisation: &str) -> Client {
        self.connect(Some(self.ca.issue(Some(organisation))))
            .await
            .unwrap()
    }
}

pub type Answer = hyper::Response<hyper::body::Incoming>;

impl Client {
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> hyper::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "node");
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.0.ready().await?;
        self.0
            .send_request(request.body(Full::new(body.into())).unwrap())
            .await
    }

    pub async fn get(&mut self, path: &str) -> (StatusCode, Value) {
        read(self.send(Method::GET, path, "", &[]).await.unwrap()).await
    }

    pub async fn post(&mut self, path: &str, body: Value) -> (StatusCode, Value) {
        read(
            self.send(Method::POST, path, body.to_string(), &[])
                .await
                .unwrap(),
        )
        .await
    }

    /// An image of one file, named `tiny:latest`.
    pub async fn load_image(&mut self) {
        let mut layer = tar::Builder::new(Vec::new());
        add(&mut layer, "file", b"content");
        let layer = layer.into_inner().unwrap();
        let digest = hearth_image::Digest::of(&layer).to_string();
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
            "config": { "Cmd": ["cat"], "Labels": { "of": "image" } },
            "rootfs": { "type": "layers", "diff_ids": [digest] },
        });
        let manifest =
            json!([{ "Config": "c.json", "RepoTags": ["tiny:latest"], "Layers": ["l.tar"] }]);
        let mut archive = tar::Builder::new(Vec::new());
        add(&mut archive, "c.json", config.to_string().as_bytes());
        add(&mut archive, "l.tar", &layer);
        add(
            &mut archive,
            "manifest.json",
            manifest.to_string().as_bytes(),
        );
        let answer = self
            .send(
                Method::POST,
                "/images/load?quiet=1",
                archive.into_inner().unwrap(),
                &[],
            )
            .await
            .unwrap();
        assert_eq!(
            read(answer).await.1["stream"],
            "Loaded image: tiny:latest\n"
        );
    }

    pub async fn create(&mut self, body: Value) -> String {
        let (status, created) = self.post("/v1.43/containers/create", body).await;
        assert_eq!(status, StatusCode::CREATED, "{created}");
        created["Id"].as_str().unwrap().to_owned()
    }
}

fn add(archive: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content).unwrap();
}

pub async fn read(answer: Answer) -> (StatusCode, Value) {
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

pub fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}
