// The API socket: at most ten connections, and one request at a time over all of them, as Firecracker answers. So a
// reply means done, and no two requests ever see the machine half changed.
import { createServer, type Server, type Socket } from "node:net";
import { Fault, reason } from "../fault.ts";
import { HttpError, type Request, RequestParser } from "./parser.ts";

/** What a request is answered with; no body means 204. */
export interface Answer {
  readonly status: number;
  readonly body?: unknown;
  readonly isDeprecated?: boolean;
}

const MAX_CONNECTIONS = 10;

/** Listens on `path`, which must not exist yet; rejects with the listen error. */
export async function serve(
  path: string,
  maxBody: number,
  handle: (request: Request) => Promise<Answer>,
): Promise<Server> {
  let turn: Promise<void> = Promise.resolve();
  let connections = 0;
  const server = createServer({ allowHalfOpen: false, noDelay: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    connections += 1;
    socket.on("close", () => {
      connections -= 1;
    });
    if (connections > MAX_CONNECTIONS) {
      socket.end(
        encode(
          503,
          { error: `Too many open connections: at most ${MAX_CONNECTIONS}.` },
          "Connection: close\r\n",
        ),
      );
      return;
    }
    const parser = new RequestParser(maxBody, () => socket.write("HTTP/1.1 100 \r\n\r\n"));
    let isRefused = false;
    let waiting = 0;
    socket.on("data", (chunk) => {
      if (isRefused) return;
      try {
        for (const request of parser.push(chunk)) {
          waiting += 1;
          // A client that pipelines without reading must not make us queue without end.
          socket.pause();
          turn = turn
            .then(() => answer(socket, request, handle))
            .then(() => {
              waiting -= 1;
              if (waiting === 0 && !socket.destroyed) socket.resume();
            });
        }
      } catch (thrown) {
        isRefused = true;
        const message = thrown instanceof HttpError ? thrown.message : "The request cannot be read.";
        turn = turn.then(() => {
          if (!socket.destroyed) socket.end(encode(400, { error: message }));
        });
      }
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ path, backlog: 64 }, resolve);
  });
  return server;
}

async function answer(
  socket: Socket,
  request: Request,
  handle: (request: Request) => Promise<Answer>,
): Promise<void> {
  let reply: Buffer;
  try {
    const { status, body, isDeprecated } = await handle(request);
    reply = encode(status, body, isDeprecated === true ? "Deprecation: true\r\n" : "");
  } catch (thrown) {
    reply = encode(thrown instanceof Fault ? thrown.status : 400, { fault_message: reason(thrown) });
  }
  if (!socket.destroyed) socket.write(reply);
}

/** The bytes of a response; the reason phrase is empty, as the real server leaves it. */
export function encode(status: number, body: unknown, extra = ""): Buffer {
  const head = `HTTP/1.1 ${status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n${extra}`;
  if (body === undefined) return Buffer.from(`${head}\r\n`);
  const payload = Buffer.from(JSON.stringify(body));
  return Buffer.concat([
    Buffer.from(`${head}Content-Type: application/json\r\nContent-Length: ${payload.length}\r\n\r\n`),
    payload,
  ]);
}
