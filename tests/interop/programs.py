"""The client programs: how they are built and how they are called."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from attrs import field, frozen
from matrix import (
    FEATURES,
    GO,
    JAVA,
    JAVA_49,
    JAVA_55,
    NODE,
    PYTHON,
    SCENARIOS,
    Client,
)

HERE = Path(__file__).parent
BUILD = HERE / ".build"
BUILD_TIMEOUT_S = 600
"""A first build fetches the whole dependency tree; later ones take seconds."""


class BuildFailed(Exception):
    """A program could not be built; the message shows the end of what the tool said."""


@frozen(kw_only=True)
class Program:
    """One client. `command` is given the folder for what it writes; `creates_topics` tells whether
    it relies on the broker to create them on use, `gives_ids` whether its messages have one by
    which a broker recognises what is sent again."""

    client: Client
    tools: tuple[str, ...]
    build: Callable[[], None]
    command: Callable[[Path], Sequence[str]] = field(repr=False)
    creates_topics: bool = True
    gives_ids: bool = True

    @property
    def name(self) -> str:
        return self.client.name

    @property
    def checks(self) -> list[str]:
        """What its role `check` can try."""
        proofs = FEATURES.values()
        return [each for each in proofs if each in self.client.proven and each not in SCENARIOS]

    def tries(self, scenario: str, *, killed: bool) -> bool:
        client = self.client
        return scenario in client.proven and not (killed and scenario in client.only_calm)

    @property
    def missing_tools(self) -> list[str]:
        return [tool for tool in self.tools if shutil.which(tool) is None]


def _build_go() -> None:
    target = BUILD / "go" / "interop"
    _call(["go", "build", "-o", str(target), "."], HERE / "go")


def _build_java() -> None:
    _call(["mvn", "-q", "-B", f"-Dbuild.dir={BUILD / 'java'}", "package"], HERE / "java")


def _build_mqadmin() -> None:
    _call(["mvn", "-q", "-B", f"-Dbuild.dir={BUILD / 'mqadmin'}", "package"], HERE / "mqadmin")


def _build_mqadmin_with(version: str) -> None:
    _build_mqadmin()
    jars = f"-DoutputDirectory={_tool_jars(version)}"
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", jars]
    _call(["mvn", "-q", "-B", f"-Drocketmq.version={version}", *goal], HERE / "mqadmin")


def _tool_jars(version: str) -> Path:
    return BUILD / f"mqadmin-{version}"


def _build_java_with(version: str) -> None:
    """The same program, to be run with another version of the client."""
    _build_java()
    jars = f"-DoutputDirectory={_jars(version)}"
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", jars]
    _call(["mvn", "-q", "-B", f"-Drocketmq.version={version}", *goal], HERE / "java")


def _jars(version: str) -> Path:
    return BUILD / f"java-{version}"


def _build_node() -> None:
    """In a copy, because npm puts what it installs beside the program."""
    target = BUILD / "node"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("interop.js", "features.js", "package.json", "package-lock.json"):
        shutil.copy(HERE / "node" / name, target / name)
    _call(["npm", "ci", "--no-audit", "--no-fund"], target)


def _build_python() -> None:
    target = BUILD / "python"
    if not (target / "bin" / "pip").exists():
        _call(["python3", "-m", "venv", str(target)], HERE)
    pip = [str(target / "bin" / "pip"), "install", "--quiet"]
    _call([*pip, "-r", str(HERE / "python" / "requirements.txt")], HERE)


def _call(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            timeout=BUILD_TIMEOUT_S,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{' '.join(command)}: not done after {BUILD_TIMEOUT_S} s") from error
    if done.returncode != 0:
        tail = "\n".join(f"  {line}" for line in done.stdout.splitlines()[-20:])
        raise BuildFailed(f"{' '.join(command)}: exit code {done.returncode}\n{tail}")


def _java_command(folder: Path, jars: Path = BUILD / "java" / "lib") -> Sequence[str]:
    classpath = f"{BUILD / 'java' / 'interop.jar'}:{jars}/*"
    own = [f"-Drocketmq.log.root={folder}", f"-Duser.home={folder}"]  # it writes into both
    return ["java", "-Xmx128m", *own, "-cp", classpath, "interop.Interop"]


def _mqadmin_command(folder: Path, jars: Path = BUILD / "mqadmin" / "lib") -> Sequence[str]:
    classpath = f"{BUILD / 'mqadmin' / 'mqadmin.jar'}:{jars}/*"
    own = [f"-Drocketmq.log.root={folder}", f"-Duser.home={folder}"]
    namesrv = "-Drocketmq.namesrv.addr=NAMESRV"  # whoever starts it knows
    return ["java", "-Xmx256m", *own, namesrv, "-cp", classpath, "interop.MQAdmin"]


PROGRAMS = (
    Program(client=JAVA, tools=("java", "mvn"), build=_build_java, command=_java_command),
    Program(
        client=JAVA_55,
        tools=("java", "mvn"),
        build=partial(_build_java_with, "5.5.0"),
        command=partial(_java_command, jars=_jars("5.5.0")),
    ),
    Program(
        client=JAVA_49,
        tools=("java", "mvn"),
        build=partial(_build_java_with, "4.9.8"),
        command=partial(_java_command, jars=_jars("4.9.8")),
    ),
    Program(
        client=GO,
        tools=("go",),
        build=_build_go,
        command=lambda folder: [str(BUILD / "go" / "interop")],
    ),
    Program(
        client=NODE,
        tools=("node", "npm"),
        build=_build_node,
        command=lambda folder: ["node", str(BUILD / "node" / "interop.js")],
        gives_ids=False,
        creates_topics=False,  # ali-ons refuses to send to a topic without a route
    ),
    Program(
        client=PYTHON,
        tools=("python3",),
        build=_build_python,
        command=lambda folder: [
            str(BUILD / "python" / "bin" / "python"),
            str(HERE / "python" / "interop.py"),
        ],
    ),
)

TOOLS = {
    "java": Program(
        client=Client(name="mqadmin", title="mqadmin 5.3.3", proven=frozenset()),
        tools=("java", "mvn"),
        build=_build_mqadmin,
        command=_mqadmin_command,
    ),
    "java55": Program(
        client=Client(name="mqadmin55", title="mqadmin 5.5.0", proven=frozenset()),
        tools=("java", "mvn"),
        build=partial(_build_mqadmin_with, "5.5.0"),
        command=partial(_mqadmin_command, jars=_tool_jars("5.5.0")),
    ),
}
"""Apache's mqadmin, no client that sends or consumes, by the program of the same version."""
