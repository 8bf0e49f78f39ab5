"""The commands of `kata-runtime`: one table from which they are parsed, explained and found."""

from kata.cli.flags import Flag

GLOBAL_FLAGS = (
    Flag("debug", "switch", "accepted for runc's sake: enable_debug in the configuration has the daemon log more"),
    Flag("log", "text", "write log lines to this file (default: standard error)"),
    Flag("log-format", "text", "format of log lines: text or json", default="text"),
    Flag("root", "text", "directory of the state of sandboxes and containers, on a tmpfs", default="/run/kata"),
    Flag(
        "config", "text", "configuration file (default: /etc/kata-containers/configuration.toml, then the built-in one)"
    ),
    Flag("kata-config", "text", "the same as --config"),
    Flag("systemd-cgroup", "switch", "accepted: cgroupsPath of the form slice:prefix:name is always understood"),
    Flag("rootless", "text", "accepted for runc's sake: true, false or auto", default="auto"),
    Flag("help", "switch", "show help", "h"),
    Flag("version", "switch", "print the version", "v"),
)

_BUNDLE = Flag("bundle", "text", "path to the bundle's directory (default: the current directory)", "b")
_CONSOLE = Flag("console-socket", "text", "Unix socket that receives the master end of the process's terminal")
_PID_FILE = Flag("pid-file", "text", "write the pid of the process that stands for the container's to this file")
_PRESERVE = Flag("preserve-fds", "number", "more than 0 is refused: open files do not reach into a VM", default="0")
_CREATE = (
    _BUNDLE,
    _CONSOLE,
    _PID_FILE,
    Flag("no-pivot", "switch", "accepted: the guest chooses how to enter the root file system"),
    Flag("no-new-keyring", "switch", "accepted: session keyrings are the guest kernel's"),
    _PRESERVE,
)
_RUN = (
    Flag("detach", "switch", "return as soon as the container runs", "d"),
    Flag("keep", "switch", "keep the container after it exits"),
    Flag("no-subreaper", "switch", "accepted: the runtime is no subreaper"),
    Flag("rootfs", "text", "run a command in this directory, or this image of a file system, without a bundle"),
    Flag("oci-layout", "text", "run an image from an OCI image layout, DIR[:TAG], or from a tar archive of one"),
    Flag("tty", "switch", "give the process a terminal (with --rootfs or --oci-layout)", "t"),
    Flag("interactive", "switch", "accepted: standard input is always connected", "i"),
    Flag("env", "list", "set an environment variable, NAME=VALUE", "e"),
    Flag("cwd", "text", "working directory of the process", "w"),
    Flag("user", "text", "user and group of the process: UID[:GID], or names with --oci-layout or --rootfs", "u"),
    Flag("memory", "text", "memory limit in bytes, or with suffix K, M, G"),
    Flag("cpus", "text", "number of CPUs, 1.5 for example"),
    Flag("hostname", "text", "host name of the container"),
    Flag("rm", "switch", "accepted: the container is removed after it exits unless --keep is given"),
    Flag("volume", "list", "bind a file or directory of the host, SOURCE:DESTINATION[:ro]", "v"),
    Flag("read-only", "switch", "make the root file system read-only"),
)
_EXEC = (
    _CONSOLE,
    Flag("cwd", "text", "working directory in the container"),
    Flag("env", "list", "set an environment variable, NAME=VALUE", "e"),
    Flag("tty", "switch", "give the process a terminal", "t"),
    Flag("user", "text", "UID[:GID]", "u"),
    Flag("additional-gids", "list", "additional group ids", "g"),
    Flag("process", "text", "read the OCI process from this JSON file", "p"),
    Flag("detach", "switch", "return as soon as the process runs", "d"),
    _PID_FILE,
    Flag("process-label", "text", "SELinux label of the process"),
    Flag("apparmor", "text", "AppArmor profile of the process"),
    Flag("no-new-privs", "switch", "set no_new_privs for the process"),
    Flag("cap", "list", "add a capability", "c"),
    _PRESERVE,
    Flag("cgroup", "list", "refused unless empty: the guest knows one cgroup per container"),
    Flag("ignore-paused", "switch", "start the process even while the container is paused"),
)
_UPDATE = (
    Flag(
        "resources",
        "text",
        "JSON file with OCI linux.resources, - for standard input; other flags are then ignored",
        "r",
    ),
    Flag("blkio-weight", "text", "block I/O weight, 10 to 1000"),
    Flag("cpu-period", "text", "CFS period in microseconds"),
    Flag("cpu-quota", "text", "CFS quota in microseconds per period"),
    Flag("cpu-share", "text", "CPU shares, relative to other containers"),
    Flag("cpu-rt-period", "text", "real-time period in microseconds"),
    Flag("cpu-rt-runtime", "text", "real-time runtime in microseconds"),
    Flag("cpuset-cpus", "text", "CPUs to use"),
    Flag("cpuset-mems", "text", "memory nodes to use"),
    Flag("memory", "text", "memory limit in bytes"),
    Flag("memory-reservation", "text", "soft memory limit in bytes"),
    Flag("memory-swap", "text", "memory and swap in bytes, -1 for no limit"),
    Flag("pids-limit", "text", "largest number of processes"),
)


_IMAGE = (
    Flag("image-path", "text", "directory of the checkpoint (default: checkpoint)"),
    Flag("work-path", "text", "accepted: there are no other files than the checkpoint's"),
    Flag("tcp-established", "switch", "accepted: connections are the guest kernel's, and always saved"),
    Flag("ext-unix-sk", "switch", "accepted: sockets are the guest kernel's"),
    Flag("shell-job", "switch", "accepted: terminals are the guest kernel's"),
    Flag("file-locks", "switch", "accepted: locks are the guest kernel's"),
    Flag("manage-cgroups-mode", "text", "accepted: cgroups are the guest kernel's"),
    Flag("lazy-pages", "switch", "refused: a VM is saved as a whole"),
)


class Command:
    """One command. `target` is module:function under kata.cli; `least` and `most` count arguments, -1 for no limit."""

    __slots__ = (
        "arguments",
        "failure",
        "flags",
        "hidden",
        "interspersed",
        "least",
        "most",
        "name",
        "summary",
        "target",
    )

    def __init__(
        self,
        name: str,
        summary: str,
        arguments: str,
        least: int,
        most: int,
        target: str,
        flags: tuple[Flag, ...] = (),
        *,
        interspersed: bool = True,
        hidden: bool = False,
        failure: int = 1,
    ) -> None:
        self.name = name
        self.summary = summary
        self.arguments = arguments
        self.least = least
        self.most = most
        self.target = target
        self.flags = (*flags, Flag("help", "switch", "show help", "h"))
        self.interspersed = interspersed
        self.hidden = hidden
        self.failure = failure


_ID = "<container-id>"

COMMANDS = {
    row.name: row
    for row in (
        Command("create", "create a container", _ID, 1, 1, "create:run_create", _CREATE),
        Command("start", "start the process of a created container", _ID, 1, 1, "control:run_start"),
        Command("state", "print the state of a container", _ID, 1, 1, "state:run_state"),
        Command(
            "kill",
            "send a signal to a container (default: SIGTERM)",
            f"{_ID} [signal]",
            1,
            2,
            "control:run_kill",
            (Flag("all", "switch", "send it to all processes of the container", "a"),),
        ),
        Command(
            "delete",
            "delete a container and what it holds",
            _ID,
            1,
            1,
            "control:run_delete",
            (Flag("force", "switch", "kill it first; no error where it does not exist", "f"),),
        ),
        Command(
            "exec",
            "run another process in a container",
            f"{_ID} <command> [argument...]  || -p process.json {_ID}",
            1,
            -1,
            "exec:run_exec",
            _EXEC,
            interspersed=False,
            failure=255,
        ),
        Command(
            "run",
            "create and start a container, wait for it and delete it",
            f"{_ID}  || --rootfs|--oci-layout PATH [{_ID}] [-- command [argument...]]",
            0,
            -1,
            "run:run_run",
            (*_CREATE, *_RUN),
        ),
        Command(
            "checkpoint",
            "save a running container with its VM, and stop it",
            _ID,
            1,
            1,
            "checkpoint:run_checkpoint",
            (
                *_IMAGE,
                Flag("leave-running", "switch", "let it go on"),
                Flag("pre-dump", "switch", "refused: a VM is saved as a whole"),
                Flag("parent-path", "text", "refused: a VM is saved as a whole"),
                Flag("page-server", "text", "refused: a VM is saved as a whole"),
            ),
        ),
        Command(
            "restore",
            "let a saved container go on, wait for it and delete it",
            _ID,
            1,
            1,
            "checkpoint:run_restore",
            (
                *_IMAGE,
                Flag("bundle", "text", "path to the bundle's directory (default: the one that it had)", "b"),
                _CONSOLE,
                _PID_FILE,
                Flag("detach", "switch", "return as soon as the container runs", "d"),
                Flag("keep", "switch", "keep the container after it exits"),
                Flag("no-subreaper", "switch", "accepted: the runtime is no subreaper"),
                Flag("no-pivot", "switch", "accepted: the guest has entered the root file system before"),
            ),
        ),
        Command(
            "fork",
            "start copies of a running container, each in a VM of its own, which begin where it is",
            f"{_ID} [<new-id>...]",
            1,
            -1,
            "fork:run_fork",
            (
                Flag("count", "number", "how many, where no new ids are given (default: 1)", "n", "0"),
                Flag(
                    "output", "text", "directory for a file ID.log of what each copy writes (default: it goes nowhere)"
                ),
                Flag("netns", "list", "network namespace of a copy, once for each (default: a new one, with loopback)"),
            ),
        ),
        Command("pause", "suspend all processes of a container", _ID, 1, 1, "control:run_pause"),
        Command("resume", "let the processes of a paused container go on", _ID, 1, 1, "control:run_resume"),
        Command(
            "ps",
            "list the processes of a container, with the guest's pids",
            f"{_ID} [ps options]",
            1,
            -1,
            "ps:run_ps",
            (Flag("format", "text", "table or json", "f", "table"),),
            interspersed=False,
        ),
        Command("update", "change the resource limits of a container", _ID, 1, 1, "update:run_update", _UPDATE),
        Command(
            "events",
            "print the resource use of a container",
            _ID,
            1,
            1,
            "events:run_events",
            (
                Flag("interval", "duration", "time between two lines", default="5s"),
                Flag("stats", "switch", "print one line and exit"),
            ),
        ),
        Command(
            "list",
            "list containers",
            "",
            0,
            0,
            "list:run_list",
            (
                Flag("format", "text", "table or json", "f", "table"),
                Flag("quiet", "switch", "print ids only", "q"),
            ),
        ),
        Command(
            "spec",
            "write a config.json to start from",
            "",
            0,
            0,
            "spec:run_spec",
            (_BUNDLE, Flag("rootless", "switch", "write one for a user without privileges")),
        ),
        Command("features", "print what this runtime implements, as JSON", "", 0, 0, "features:run_features"),
        Command(
            "check",
            "say what this host can do and what is missing",
            "",
            0,
            0,
            "check:run_check",
            (
                Flag("boot", "switch", "boot a VM and run true in it"),
                Flag("verbose", "switch", "accepted", "v"),
                Flag("strict", "switch", "fail on warnings too", "s"),
                Flag("no-network-checks", "switch", "accepted: there are none", "n"),
                Flag("json", "switch", "print JSON"),
            ),
        ),
        Command(
            "env",
            "print what this runtime would use, as TOML",
            "",
            0,
            0,
            "env:run_env",
            (Flag("json", "switch", "print JSON"),),
        ),
        Command("console", "open the debug console of a sandbox", "<sandbox-id>", 1, 1, "console:run_console"),
        Command(
            "logs",
            "print the logs of a sandbox: service, agent, guest console",
            "<sandbox-id>",
            1,
            1,
            "logs:run_logs",
            (
                Flag("follow", "switch", "wait for more", "f"),
                Flag("source", "text", "only one of: service, agent, console"),
            ),
        ),
        Command(
            "timeline",
            "print how long each phase of a sandbox's start took, on the host and in the guest",
            "<sandbox-id>",
            1,
            1,
            "timeline:run_timeline",
            (Flag("html", "switch", "print a picture of it, one page of HTML"),),
        ),
        Command(
            "metrics",
            "print the figures of a sandbox as Prometheus reads them",
            "<sandbox-id>",
            1,
            1,
            "metrics:run_metrics",
        ),
        Command(
            "factory",
            "make, list or remove the saved VMs that new ones are copies of",
            "init | status | destroy",
            1,
            1,
            "factory:run_factory",
        ),
        Command(
            "direct-volume",
            "have guests mount a volume from its device: for storage drivers",
            "add|remove|stats|resize",
            1,
            1,
            "direct_volume:run_direct_volume",
            (
                Flag("volume-path", "text", "path of the volume on the host"),
                Flag("mount-info", "text", "with add: JSON with device, fstype, options and metadata"),
                Flag("size", "text", "with resize: bytes that the volume is to have"),
            ),
        ),
        Command(
            "gc",
            "remove what crashed sandboxes left behind",
            "",
            0,
            0,
            "gc:run_gc",
            (Flag("dry-run", "switch", "print what would be removed", "n"),),
        ),
        Command("version", "print the version", "", 0, 0, "main:run_version"),
        Command(
            "serve",
            "serve a sandbox",
            "",
            0,
            0,
            "serve:run_serve",
            (
                Flag("sandbox", "text", "id"),
                Flag("bundle", "text", "path"),
                Flag("service-fd", "number", "listening socket of the service"),
                Flag("init-fd", "number", "listening socket of stand-ins"),
                Flag("creator", "number", "pid of the command that started this one", default="0"),
                Flag("network-fd", "number", "network namespace that the sandbox is to have", default="-1"),
                Flag("origin", "text", "directory of the checkpoint that the sandbox goes on from"),
                Flag("copy", "switch", "leave the sandbox that was saved its disks and its identity"),
            ),
            hidden=True,
        ),
    )
}
