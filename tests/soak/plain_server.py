"""What one writes first: http.server, one request at a time, an export's own serving signature. EXPORT in, PORT out.

python -m tests.soak.plain_server EXPORT
"""

from __future__ import annotations

import base64
import http.server
import json
import sys

import tensorflow as tf


def main(path: str) -> None:
    signature = tf.saved_model.load(path).signatures["serving_default"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            files = [base64.b64decode(instance["b64"]) for instance in request["instances"]]
            found = signature(image_bytes=tf.constant(files))
            rows = [
                {"probabilities": row.tolist(), "label": label.decode(), "confidence": float(row.max())}
                for row, label in zip(found["probabilities"].numpy(), found["label"].numpy(), strict=True)
            ]
            answer = json.dumps({"predictions": rows}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    http.server.HTTPServer.request_queue_size = 64  # of its own 5 the rest of many callers would be turned away
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
