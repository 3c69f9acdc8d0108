"""A real ComfyUI server in a process of its own, on empty folders, and a client for it."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import host

PACK_NAME = "ComfyUI-DeepExPo"
NOT_COPIED = shutil.ignore_patterns(".git", "__pycache__", "tests", "runs", ".*_cache", ".venv*", "*.egg-info")


@dataclass(frozen=True)
class Server:
    url: str
    base: Path  # holds custom_nodes, input, models, output, temp, user
    log: Path
    process: subprocess.Popen

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str, **query: str) -> bytes:
        address = f"{self.url}/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        return self._open(urllib.request.Request(address))

    def get_json(self, path: str, **query: str):
        return json.loads(self.get(path, **query))

    def object_info(self) -> dict:
        return self.get_json("object_info")

    def post_prompt(self, graph: dict, timeout: float = 300) -> dict:
        """Run a graph in API format; its history entry. Raises with what ComfyUI says of the nodes that failed."""
        answer = self._post("prompt", json.dumps({"prompt": graph}).encode(), "application/json")
        entry = self._finished(json.loads(answer)["prompt_id"], timeout)
        if entry["status"]["status_str"] != "success":
            raise RuntimeError(_failure(entry))
        return entry

    def free_memory(self) -> None:
        """Unload models and forget results, so that the next prompt is computed from its first node."""
        self._post("free", b'{"unload_models": true, "free_memory": true}', "application/json")
        time.sleep(0.5)  # the worker looks at it when it wakes; a prompt posted at once could be taken first

    def pictures(self, entry: dict, nodes: Collection[str] | None = None) -> list[bytes]:
        """The files of every picture that a history entry shows, in the order of the node ids and batches; of these nodes
        alone where some are given."""
        shown = [node for node in entry["outputs"] if nodes is None or node in nodes]
        outputs = [entry["outputs"][node] for node in sorted(shown, key=_by_number)]
        return [self.view(image) for output in outputs for image in output.get("images", [])]

    def view(self, image: dict) -> bytes:
        return self.get("view", filename=image["filename"], subfolder=image["subfolder"], type=image["type"])

    def upload_image(self, picture: Path | bytes, name: str | None = None) -> str:
        """Into ComfyUI's input folder, in place of one of that name; the name that LoadImage takes."""
        data = picture if isinstance(picture, bytes) else picture.read_bytes()
        body, content_type = _multipart(name or Path(picture).name, data)
        return json.loads(self._post("upload/image", body, content_type))["name"]

    def _finished(self, prompt_id: str, timeout: float) -> dict:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.get_json(f"history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.1)
        raise TimeoutError(f"the prompt was not finished after {timeout} s; the log ends:\n{self.log_text()[-3000:]}")

    def _post(self, path: str, body: bytes, content_type: str) -> bytes:
        return self._open(urllib.request.Request(f"{self.url}/{path}", body, {"Content-Type": content_type}))

    def _open(self, request: urllib.request.Request) -> bytes:
        if self.process.poll() is not None:
            raise RuntimeError(f"ComfyUI has ended ({self.process.returncode}); its log:\n{self.log_text()[-3000:]}")
        try:
            with _without_proxy().open(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{request.full_url}: {error.code} {_readable(error.read())}") from error


@contextlib.contextmanager
def running_server(base: Path, pack: Path | None = host.PACK, arguments: tuple[str, ...] = ()) -> Iterator[Server]:
    """ComfyUI on the folder `base`, with `pack` as its only custom node, until the end of the block."""
    comfyui = host.comfyui_folder()
    if comfyui is None:
        raise RuntimeError(f"no ComfyUI at {host.PLACES}")
    _prepare(base, pack)
    port = _free_port()
    log = base / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("start.py")), str(comfyui), *_flags(comfyui, base, port),
             *arguments],
            stdout=output, stderr=subprocess.STDOUT, cwd=base,
        )  # fmt: skip
        try:
            server = Server(f"http://127.0.0.1:{port}", base, log, process)
            _wait_until_ready(server)
            yield server
        finally:
            _stop(process)


def _prepare(base: Path, pack: Path | None) -> None:
    for name in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    if pack is not None:
        shutil.copytree(pack, base / "custom_nodes" / PACK_NAME, ignore=NOT_COPIED)


def _flags(comfyui: Path, base: Path, port: int) -> list[str]:
    flags = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base),
             "--temp-directory", str(base), "--user-directory", str(base / "user"), "--disable-auto-launch",
             "--database-url", "sqlite:///:memory:", "--disable-api-nodes"]  # fmt: skip
    if host.is_installable_package(comfyui):
        return [*flags, "--cwd", str(base), "--disable-requests-caching"]  # its cache is in the user's home
    return [*flags, "--dont-print-server"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(server: Server, timeout: float = 600) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            server.get("system_stats")
            return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise TimeoutError(f"ComfyUI was not up after {timeout} s; the log ends:\n{server.log_text()[-3000:]}")


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _without_proxy() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _multipart(name: str, data: bytes) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
    body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def _failure(entry: dict) -> str:
    messages = entry["status"]["messages"]
    if all(isinstance(message, str) for message in messages):  # the LTS fork names no node
        return "\n".join(messages)
    errors = [message for kind, message in messages if kind == "execution_error"]
    return "\n".join(
        f"node {error['node_id']} ({error['node_type']}): {error['exception_type']}: {error['exception_message']}\n"
        + "".join(error["traceback"])
        for error in errors
    ) or json.dumps(entry["status"])


def _readable(answer: bytes) -> str:
    try:
        return json.dumps(json.loads(answer), indent=1)
    except ValueError:
        return answer.decode(errors="replace")


def _by_number(node_id: str) -> tuple:
    return tuple(int(part) if part.isdigit() else part for part in node_id.split(":"))
