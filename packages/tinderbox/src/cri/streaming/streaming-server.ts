/**
 * The HTTP server behind Exec, Attach and PortForward: on loopback, a token in the path, then SPDY/3.1 or WebSocket.
 * The kubelet and crictl are its only clients; it serves nothing without a token.
 */
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { createWebSocketStream, type WebSocket, WebSocketServer } from "ws";
import { TinderboxError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Engine } from "../../engine/contract.ts";
import type { ProcessStreams } from "../../sandbox/contract.ts";
import type { AttachSession, ExecSession, PortForwardSession, StreamingUrls } from "../cri-context.ts";
import { portForwardProtocol, servePortForward } from "./port-forward.ts";
import { runRemoteCommand } from "./remote-command.ts";
import { SessionTokens } from "./session-tokens.ts";
import { openSpdyChannels, spdyCommandProtocols } from "./spdy-remote-command.ts";
import { webSocketChannels, webSocketCommandProtocols } from "./websocket-remote-command.ts";

/** What the server needs of an engine. */
export type StreamingEngine = Pick<Engine, "exec" | "attach" | "portForward">;
export type StreamingServer = StreamingUrls & { close(): Promise<void> };

type CommandSession =
  | (ExecSession & { readonly kind: "exec" })
  | (AttachSession & { readonly kind: "attach" });
type Session = CommandSession | (PortForwardSession & { readonly kind: "portforward" });

const idleTimeoutMs = 4 * 60 * 60 * 1000;
/** For the request's head */
const requestTimeoutMs = 10_000;
const maxMessageBytes = 4 << 20;
const tunnelProtocol = `SPDY/3.1+${portForwardProtocol}`;

type Refusal = { readonly status: string; readonly text: string; readonly headers?: readonly string[] };

function refuse(socket: Duplex, { status, text, headers = [] }: Refusal): void {
  const body = `${text}\n`;
  const head = [
    `HTTP/1.1 ${status}`,
    "Connection: close",
    "Content-Type: text/plain",
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...headers,
  ];
  socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
}

/** A header's values: repeated, or in a comma list. */
function listOf(request: IncomingMessage, name: string): readonly string[] {
  return (request.headersDistinct[name] ?? [])
    .flatMap((line) => line.split(","))
    .map((one) => one.trim())
    .filter((one) => one !== "");
}

/** The client's first choice that we know. */
function agreeOn<const T extends string>(offered: readonly string[], known: readonly T[]): T | undefined {
  for (const one of offered) {
    const found = known.find((name) => name === one);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Starts the server on a free port of 127.0.0.1. A connection is closed after `idleMs` in which nothing came or went. */
export async function openStreamingServer(
  engine: StreamingEngine,
  logger: Logger,
  idleMs: number = idleTimeoutMs,
): Promise<StreamingServer> {
  const tokens = new SessionTokens<Session>();
  const sockets = new Set<Duplex>();
  const settings = { noServer: true, maxPayload: maxMessageBytes, perMessageDeflate: false } as const;
  const webSockets = new WebSocketServer({
    ...settings,
    handleProtocols: (offered) => agreeOn([...offered], webSocketCommandProtocols) ?? false,
  });
  // The tunnel's name has a slash, which no sub-protocol may have and `ws` refuses: it is answered by hand.
  const tunnels = new WebSocketServer(settings);
  tunnels.on("headers", (headers) => void headers.push(`Sec-WebSocket-Protocol: ${tunnelProtocol}`));

  const openStreams = (session: CommandSession): Promise<ProcessStreams> => {
    const { containerId, stdin, stdout, stderr, tty } = session;
    if (session.kind === "attach")
      return engine.attach(containerId, { stdin, stdout, stderr: stderr && !tty });
    return engine.exec(containerId, {
      command: session.command,
      tty,
      stdin,
      stdout,
      stderr: stderr && !tty,
      timeoutMs: 0,
    });
  };
  const dial = (session: PortForwardSession) => (port: number) => engine.portForward(session.podId, port);

  const serveSpdy = async (
    session: Session,
    request: IncomingMessage,
    socket: Duplex,
    head: Buffer,
  ): Promise<void> => {
    const offered = listOf(request, "x-stream-protocol-version");
    const known = session.kind === "portforward" ? ([portForwardProtocol] as const) : spdyCommandProtocols;
    // A port-forward client may leave the header out.
    const protocol =
      session.kind === "portforward" && offered.length === 0 ? portForwardProtocol : agreeOn(offered, known);
    if (protocol === undefined) {
      if (offered.length === 0)
        return refuse(socket, { status: "400 Bad Request", text: "X-Stream-Protocol-Version is missing" });
      const accepted = known.map((name) => `X-Accepted-Stream-Protocol-Versions: ${name}`);
      return refuse(socket, {
        status: "403 Forbidden",
        text: `none of ${offered.join(", ")} is spoken here: ${known.join(", ")}`,
        headers: accepted,
      });
    }
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: ${protocol}\r\n\r\n`,
    );
    if (session.kind === "portforward") return servePortForward(socket, head, dial(session));
    if (protocol === portForwardProtocol) return;
    const channels = await openSpdyChannels(socket, head, session, protocol);
    await runRemoteCommand(() => openStreams(session), channels);
  };

  const serveWebSocket = async (
    session: Session,
    request: IncomingMessage,
    socket: Duplex,
    head: Buffer,
  ): Promise<void> => {
    const offered = listOf(request, "sec-websocket-protocol");
    const known: readonly string[] =
      session.kind === "portforward" ? [tunnelProtocol] : webSocketCommandProtocols;
    const isLegacy = offered.length === 0 && session.kind !== "portforward";
    if (!isLegacy && agreeOn(offered, known) === undefined) {
      return refuse(socket, {
        status: "400 Bad Request",
        text: `Sec-WebSocket-Protocol must be one of: ${known.join(", ")}`,
      });
    }
    const isTunnel = session.kind === "portforward";
    if (isTunnel) delete request.headers["sec-websocket-protocol"];
    const webSocket = await new Promise<WebSocket>((resolve, reject) => {
      socket.once("close", () =>
        reject(new TinderboxError("ABORTED", "the client went away during the WebSocket handshake")),
      );
      (isTunnel ? tunnels : webSockets).handleUpgrade(request, socket, head, resolve);
    });
    if (isTunnel) {
      // The stream itself learns of the end only where somebody reads.
      const gone = new Promise<void>((resolve) => webSocket.once("close", () => resolve()));
      return servePortForward(createWebSocketStream(webSocket), Buffer.alloc(0), dial(session), gone);
    }
    await runRemoteCommand(() => openStreams(session), webSocketChannels(webSocket, session));
  };

  const server = createServer((request, response) => {
    request.resume();
    response
      .writeHead(400, { "Content-Type": "text/plain" })
      .end("an upgrade to SPDY/3.1 or websocket is needed\n");
  });
  server.headersTimeout = requestTimeoutMs;
  server.requestTimeout = requestTimeoutMs;
  server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => sockets.delete(socket));
    request.socket.setTimeout(idleMs, () => socket.destroy());
    const [, kind, token] = /^\/(exec|attach|portforward)\/([\w-]{16,64})$/.exec(request.url ?? "") ?? [];
    if (request.method !== "GET" && request.method !== "POST")
      return refuse(socket, { status: "405 Method Not Allowed", text: "GET or POST" });
    const session = token === undefined ? undefined : tokens.take(token);
    if (session === undefined || session.kind !== kind) {
      return refuse(socket, {
        status: "404 Not Found",
        text: "no such stream: a URL is good for one use within a minute",
      });
    }
    const upgrade = request.headers.upgrade?.toLowerCase();
    const serve = upgrade === "websocket" ? serveWebSocket : upgrade === "spdy/3.1" ? serveSpdy : undefined;
    if (serve === undefined)
      return refuse(socket, { status: "400 Bad Request", text: "Upgrade must be SPDY/3.1 or websocket" });
    serve(session, request, socket, head).catch((thrown) => {
      logger.debug("a stream ended early", {
        kind: session.kind,
        error: TinderboxError.from(thrown).message,
      });
      socket.destroy();
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  const urlOf = (session: Session): string =>
    `http://127.0.0.1:${port}/${session.kind}/${tokens.issue(session)}`;

  return {
    execUrl: (session) => urlOf({ ...session, kind: "exec" }),
    attachUrl: (session) => urlOf({ ...session, kind: "attach" }),
    portForwardUrl: (session) => urlOf({ ...session, kind: "portforward" }),
    async close() {
      for (const socket of sockets) socket.destroy();
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
