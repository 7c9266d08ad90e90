/**
 * Port forwarding over a SPDY connection: for each local connection of the client a pair of streams, `error` and
 * `data`, tied by `requestid`. Text on the error stream means that it failed. The transport is a socket, or a
 * WebSocket that carries SPDY.
 */
import type { Duplex } from "node:stream";
import { TinderboxError } from "../../base/errors.ts";
import { SpdyConnection, type SpdyStream } from "./spdy-connection.ts";
import { rstStatus } from "./spdy-frame-codec.ts";

export const portForwardProtocol = "portforward.k8s.io";

const pairTimeoutMs = 30_000;
/** For the other direction, after one has ended */
const graceMs = 1000;

type Half = { readonly type: "error" | "data"; readonly stream: SpdyStream; readonly timer: NodeJS.Timeout };

function portOf(stream: SpdyStream): number | undefined {
  const text = stream.headers.get("port") ?? "";
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65535 ? port : undefined;
}

/** Clients without `requestid` open the error stream first, the data stream with the next id. */
function pairKey(stream: SpdyStream, type: "error" | "data"): string {
  return stream.headers.get("requestid") ?? `by-id-${type === "error" ? stream.id : stream.id - 2}`;
}

async function fromClient(data: SpdyStream, target: Duplex): Promise<void> {
  for await (const chunk of data.input) {
    await new Promise<void>((resolve, reject) =>
      target.write(chunk, (error) => (error ? reject(error) : resolve())),
    );
  }
  target.end();
}

async function toClient(target: Duplex, data: SpdyStream): Promise<void> {
  for await (const chunk of target) await data.write(chunk as Uint8Array);
  await data.end();
}

async function copyBothWays(data: SpdyStream, target: Duplex): Promise<void> {
  // A client that resets the stream, or goes, wants nothing more of the pod, which may not say anything for hours. It is no
  // fault: client-go resets it at the end of every connection, and takes text on the error stream for the end of all.
  let isReset = false;
  const upward = fromClient(data, target).catch((thrown: unknown) => {
    if (!(thrown instanceof TinderboxError) || thrown.code !== "ABORTED") return;
    isReset = true;
    target.destroy();
  });
  try {
    await toClient(target, data);
    // The pod's side is over; what the client still sends has a moment, then nobody to read it.
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, graceMs);
    });
    await Promise.race([upward, late]);
    clearTimeout(timer);
  } catch (cause) {
    if (!isReset) throw cause;
  } finally {
    data.input.discard();
    target.destroy();
  }
}

/** Serves pairs until the client goes; `dial` connects to a port in the pod, `gone` may know of the client's end before `transport`. */
export async function servePortForward(
  transport: Duplex,
  head: Buffer,
  dial: (port: number) => Promise<Duplex>,
  gone?: Promise<void>,
): Promise<void> {
  const waiting = new Map<string, Half>();
  const open = new Set<Duplex>();

  const forward = async (error: SpdyStream, data: SpdyStream, port: number): Promise<void> => {
    error.input.discard();
    let target: Duplex | undefined;
    try {
      target = await dial(port);
      target.on("error", () => {});
      open.add(target);
      await copyBothWays(data, target);
      await error.end();
    } catch (thrown) {
      await error.write(Buffer.from(`port ${port}: ${TinderboxError.from(thrown).message}`));
      await error.end();
      await data.reset();
    } finally {
      target?.destroy();
      if (target !== undefined) open.delete(target);
      connection.forget(error.id);
      connection.forget(data.id);
    }
  };

  const connection = new SpdyConnection(
    transport,
    (stream) => {
      const type = stream.headers.get("streamtype");
      const port = portOf(stream);
      if ((type !== "error" && type !== "data") || port === undefined) return false;
      const key = pairKey(stream, type);
      const other = waiting.get(key);
      if (other === undefined) {
        const timer = setTimeout(() => {
          waiting.delete(key);
          void stream.reset(rstStatus.cancel).catch(() => {});
        }, pairTimeoutMs);
        waiting.set(key, { type, stream, timer });
        return true;
      }
      if (other.type === type) return false;
      clearTimeout(other.timer);
      waiting.delete(key);
      const [error, data] = type === "error" ? [stream, other.stream] : [other.stream, stream];
      // A client that is gone makes the writes fail; there is nobody left to tell.
      void forward(error, data, port).catch(() => {});
      return true;
    },
    gone,
  );
  await connection.run(head);
  for (const { timer } of waiting.values()) clearTimeout(timer);
  for (const target of open) target.destroy();
}
