//! A reverse proxy in front of a server: the real nginx or Caddy, with the
//! configuration in `deploy/` of which only names, ports and paths are others.

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    process, program,
    result::{Doing, Failure, Result, ensure},
    wait,
};

/// How long a proxy may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// A port that was free may be taken by somebody else before the proxy has it.
const TRIES: usize = 5;

/// Whose proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of Debian's package `nginx`.
    Nginx,
    /// Of Debian's package `caddy`.
    Caddy,
}

/// Where the proxy can be reached: what 443 and 8448 are in the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// For clients.
    pub clients: u16,
    /// For servers.
    pub servers: u16,
}

/// A proxy and its folder.
pub struct Proxy {
    kind: Kind,
    folder: PathBuf,
    /// The name in its certificate, for which it answers.
    host: String,
    chain: PathBuf,
    key: PathBuf,
    child: Option<Child>,
}

impl Proxy {
    /// Prepares one; it does not run yet. The certificate is for `host` and [`base_of`] it.
    pub fn prepare(kind: Kind, folder: PathBuf, host: &str, chain: PathBuf, key: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { kind, folder, host: host.to_owned(), chain, key, child: None })
    }

    /// The name that it answers for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Starts it in front of `upstream`.
    pub async fn start(&mut self, upstream: SocketAddr) -> Result<Ports> {
        let mut last = Failure::new("not tried");
        for _ in 0..TRIES {
            let ports = free_ports()?;
            match self.try_start(upstream, ports).await {
                Ok(()) => return Ok(ports),
                Err(error) if error.to_string().contains("ddress already in use") => last = error,
                Err(error) => return Err(error),
            }
            process::kill(&mut self.child).await?;
        }
        Err(last)
    }

    /// Ends it as an operator does.
    pub async fn stop(&mut self) -> Result<()> {
        process::stop(&mut self.child, STOP_PATIENCE).await.map(drop).doing("stopping the proxy")
    }

    async fn try_start(&mut self, upstream: SocketAddr, ports: Ports) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log"))?;
        let mut command = match self.kind {
            Kind::Nginx => self.nginx(upstream, ports)?,
            Kind::Caddy => self.caddy(upstream, ports)?,
        };
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let mut child = child.spawn().doing("starting the proxy")?;
        let opened = wait::until("the proxy to listen", async || {
            if child.try_wait()?.is_some() {
                return Ok(Some(false));
            }
            for port in [ports.clients, ports.servers] {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            }
            Ok(Some(true))
        })
        .await?;
        self.child = Some(child);
        let log = self.folder.join("log");
        ensure(opened, || format!("the proxy ended:\n{}", fs::read_to_string(log).unwrap_or_default()))
    }

    fn nginx(&self, upstream: SocketAddr, ports: Ports) -> Result<Command> {
        let folder = self.folder.display();
        let text = example("nginx/causeway.conf")?;
        let text = self.with_own_names(&text, upstream)?;
        // This machine may have no IPv6.
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("listen [::]")).collect();
        let text = lines.join("\n");
        let text = replaced(&text, "listen 443 ", &format!("listen 127.0.0.1:{} ", ports.clients))?;
        let text = replaced(&text, "listen 8448 ", &format!("listen 127.0.0.1:{} ", ports.servers))?;
        let (base, host) = (base_of(&self.host), &self.host);
        let (chain, key) = (self.chain.display().to_string(), self.key.display().to_string());
        let mut text = text;
        for name in [&base, host] {
            let live = format!("/etc/letsencrypt/live/{name}");
            text = replaced(&text, &format!("{live}/fullchain.pem"), &chain)?;
            text = replaced(&text, &format!("{live}/privkey.pem"), &key)?;
        }
        fs::write(self.folder.join("causeway.conf"), text)?;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {folder}/{name};\n"))
            .concat();
        // Its workers must be able to write into the folder of this test.
        let main = format!(
            "user root;\ndaemon off;\nworker_processes 1;\npid {folder}/pid;\nevents {{ }}\n\
             http {{\n    access_log off;\n{temporary}    include {folder}/causeway.conf;\n}}\n"
        );
        fs::write(self.folder.join("nginx.conf"), main)?;
        let mut command = Command::new(program::deploy_tools()?.join("usr/sbin/nginx"));
        command.args(["-e", "stderr", "-p"]).arg(&self.folder).arg("-c").arg(self.folder.join("nginx.conf"));
        Ok(command)
    }

    fn caddy(&self, upstream: SocketAddr, ports: Ports) -> Result<Command> {
        let text = example("caddy/Caddyfile")?;
        let Ports { clients, servers } = ports;
        let (base, host) = (base_of(&self.host), &self.host);
        let tls = format!("\ttls {} {}\n", self.chain.display(), self.key.display());
        let own = "\nmatrix.example.org, matrix.example.org:8448 {\n";
        let text = replaced(&text, own, &format!("\n{host}:{clients}, {host}:{servers} {{\n{tls}"))?;
        let text = replaced(&text, "\nexample.org {\n", &format!("\n{base}:{clients} {{\n{tls}"))?;
        let text = replaced(&text, "127.0.0.1:8008", &upstream.to_string())?;
        let options = "{\n\tadmin off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n}\n\n";
        let file = self.folder.join("Caddyfile");
        fs::write(&file, format!("{options}{text}"))?;
        let mut command = Command::new(program::deploy_tools()?.join("usr/bin/caddy"));
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
        for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, &self.folder);
        }
        Ok(command)
    }

    fn with_own_names(&self, text: &str, upstream: SocketAddr) -> Result<String> {
        let text = replaced(text, "127.0.0.1:8008", &upstream.to_string())?;
        // The longer one first: it contains the other.
        let text = replaced(&text, "matrix.example.org", &self.host)?;
        replaced(&text, "example.org", &base_of(&self.host))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("kind", &self.kind).field("host", &self.host).finish_non_exhaustive()
    }
}

/// The name that only tells where `host` is: what `example.org` is to `matrix.example.org`.
pub fn base_of(host: &str) -> String {
    format!("base.{host}")
}

/// A file of `deploy/`.
fn example(path: &str) -> Result<String> {
    fs::read_to_string(program::checkout().join("deploy").join(path)).doing(path)
}

/// With `new` wherever `old` is; it has to be somewhere.
fn replaced(text: &str, old: &str, new: &str) -> Result<String> {
    ensure(text.contains(old), || format!("no {old:?} in:\n{text}"))?;
    Ok(text.replace(old, new))
}

fn free_ports() -> Result<Ports> {
    let both = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let [clients, servers] = both;
    Ok(Ports { clients: clients?.local_addr()?.port(), servers: servers?.local_addr()?.port() })
}
