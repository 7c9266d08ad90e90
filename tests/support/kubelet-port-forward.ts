/** Port forwarding through a kubelet as client-go does it: one SPDY connection, a pair of streams for each connection, each ended by a reset. */
import { once } from "node:events";
import { request } from "node:https";
import type { Socket } from "node:net";
import {
  controlFrame,
  controlType,
  dataHead,
  rstStatus,
  SpdyFrameReader,
  uint32,
} from "../../packages/tinderbox/src/cri/streaming/spdy-frame-codec.ts";
import { HeaderWriter } from "../../packages/tinderbox/src/cri/streaming/spdy-header-block.ts";

/** Sends each of `requests` on a connection of its own to a port of the pod; what came back until the pod's side ended. @throws for text on an error stream */
export async function forwardThroughKubelet(
  kubeletPort: number,
  path: string,
  podPort: number,
  requests: readonly string[],
): Promise<readonly string[]> {
  const outgoing = request({
    host: "127.0.0.1",
    port: kubeletPort,
    path,
    method: "POST",
    rejectUnauthorized: false,
    headers: {
      connection: "Upgrade",
      upgrade: "SPDY/3.1",
      "x-stream-protocol-version": "portforward.k8s.io",
    },
  });
  outgoing.end();
  const [, socket, head]: [unknown, Socket, Buffer] = await Promise.race([
    once(outgoing, "upgrade") as Promise<[unknown, Socket, Buffer]>,
    once(outgoing, "response").then(([answer]) => {
      throw new Error(`port-forward: HTTP ${answer.statusCode}`);
    }),
  ]);
  const frames = new SpdyFrameReader();
  // The headers of the replies say nothing: they are not read.
  const writer = new HeaderWriter();
  const received = new Map<number, string>();
  const ended = new Set<number>();
  let wake = (): void => {};
  const take = (chunk: Buffer): void => {
    for (const frame of frames.push(chunk)) {
      if (frame.kind === "data") {
        const text = frame.payload.toString("latin1");
        received.set(frame.streamId, (received.get(frame.streamId) ?? "") + text);
        if (frame.fin) ended.add(frame.streamId);
      } else if (frame.type === controlType.rstStream) ended.add(frame.payload.readUInt32BE(0));
    }
    wake();
  };
  let isClosed = false;
  socket.on("data", take);
  socket.on("error", () => {});
  socket.once("close", () => {
    isClosed = true;
    wake();
  });
  take(head);
  const end = async (id: number): Promise<string> => {
    while (!ended.has(id)) {
      if (isClosed) throw new Error(`the kubelet closed the connection before stream ${id} ended`);
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    return received.get(id) ?? "";
  };
  const answers: string[] = [];
  try {
    for (const [n, text] of requests.entries()) {
      const [error, data] = [4 * n + 1, 4 * n + 3];
      for (const [id, streamtype] of [
        [error, "error"],
        [data, "data"],
      ] as const) {
        const headers = new Map([
          ["streamtype", streamtype],
          ["port", String(podPort)],
          ["requestid", String(n)],
        ]);
        const block = writer.write(headers);
        socket.write(controlFrame(controlType.synStream, 0, uint32(id), uint32(0), Buffer.alloc(2), block));
      }
      const bytes = Buffer.from(text);
      socket.write(Buffer.concat([dataHead(data, bytes.length, false), bytes]));
      answers.push(await end(data));
      socket.write(controlFrame(controlType.rstStream, 0, uint32(data), uint32(rstStatus.cancel)));
      const fault = await end(error);
      if (fault !== "") throw new Error(`port-forward, connection ${n}: ${fault}`);
    }
  } finally {
    socket.destroy();
    wake();
  }
  return answers;
}
