/** Agent streams as what the engine uses: the streams of an exec or attach, and a TCP connection as a Duplex. */
import { Duplex } from "node:stream";
import { TinderboxError } from "../base/errors.ts";
import { AgentStream } from "../rpc/agent-client.ts";
import { frameKind } from "../rpc/agent-frame-codec.ts";
import type { ExitResult, ProcessStreams } from "./contract.ts";

type OutputChunk = { readonly channel: "stdout" | "stderr"; readonly data: Uint8Array };

/** The streams of an exec or attach. `release` is called once, when nothing more can happen on it. */
export function processStreams(stream: AgentStream, release: () => void): ProcessStreams {
  const exit = Promise.withResolvers<ExitResult>();
  let isTaken = false;

  async function* output(): AsyncGenerator<OutputChunk> {
    if (isTaken)
      throw new TinderboxError("WRONG_STATE", "the output of these streams has been taken already");
    isTaken = true;
    let failure = "the connection to the agent ended before the process did";
    try {
      for await (const frame of stream.frames()) {
        if (frame.kind === frameKind.data && frame.channel > 0) {
          yield { channel: frame.channel === 2 ? "stderr" : "stdout", data: frame.payload };
        } else if (frame.kind === frameKind.exit) {
          const status = AgentStream.exitOf(frame);
          exit.resolve({ code: status.code, timedOut: status.timedOut, error: status.error });
          return;
        }
      }
    } catch (cause) {
      failure = TinderboxError.from(cause, "AGENT").message;
    } finally {
      exit.resolve({ code: -1, timedOut: false, error: failure });
      stream.close();
      release();
    }
  }

  return {
    writeStdin: (chunk) => stream.writeData(0, chunk),
    endStdin: () => void stream.writeEof(0).catch(() => {}),
    output,
    resize: (width, height) => void stream.resize(width, height).catch(() => {}),
    exit: exit.promise,
    close: () => {
      stream.close();
      exit.resolve({ code: -1, timedOut: false, error: "closed by the client" });
      release();
    },
  };
}

/** A stream opened by OpenTcp as a Duplex: DATA 0 goes in, DATA 1 comes out, each direction with its own end. */
export function tcpDuplex(stream: AgentStream, release: () => void): Duplex {
  const frames = stream.frames();
  let reading = false;
  return new Duplex({
    allowHalfOpen: true,
    read() {
      if (reading) return;
      reading = true;
      const next = async (): Promise<void> => {
        for (;;) {
          const { done, value } = await frames.next();
          if (done || value.kind === frameKind.eof) return void this.push(null);
          if (value.kind === frameKind.data && !this.push(value.payload)) return;
        }
      };
      next().then(
        () => {
          reading = false;
        },
        (cause) => this.destroy(TinderboxError.from(cause, "AGENT")),
      );
    },
    write(chunk: Uint8Array, _encoding, done) {
      stream.writeData(0, chunk).then(() => done(), done);
    },
    final(done) {
      stream.writeEof(0).then(() => done(), done);
    },
    destroy(cause, done) {
      stream.close();
      release();
      done(cause);
    },
  });
}
