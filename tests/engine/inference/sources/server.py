"""A camera's HTTP server (motion JPEG) on the loopback that stalls, breaks and comes back as a test says."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

PAUSE = 0.004  # seconds between frames


def jpeg(shade: int, size: tuple[int, int] = (48, 64)) -> bytes:
    return cv2.imencode(".jpg", np.full((*size, 3), shade % 256, np.uint8))[1].tobytes()


class Camera(BaseHTTPRequestHandler):
    """`server.script(path, connection)` yields shades of frames, or seconds to stall as floats; the end breaks."""

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            number = server.connections[self.path] = server.connections.get(self.path, 0) + 1
        script = server.script(self.path, number)
        if script is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with contextlib.suppress(OSError):
            for step in script:
                if isinstance(step, float):
                    time.sleep(step)
                    continue
                content = jpeg(step)
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(content)
                                 + content + b"\r\n")
                time.sleep(PAUSE)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def camera_server(script: Callable) -> Iterator[ThreadingHTTPServer]:
    """A running server; `.url(path)` gives addresses, with a password in them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads, server.script, server.connections, server.lock = True, script, {}, threading.Lock()
    server.url = lambda path: f"http://user:pw@127.0.0.1:{server.server_port}/{path}?token=pw"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
