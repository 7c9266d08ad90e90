/**
 * A connection to an agent: requests and answers, events, and the turn of a connection into a stream.
 * Reading follows the consumer: frames that nobody takes are left in the socket.
 */
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type ErrorCode, TinderboxError } from "../base/errors.ts";
import { span } from "../base/trace.ts";
import { encodeFrame, type Frame, FrameDecoder, frameKind } from "./agent-frame-codec.ts";
import {
  Error_Code,
  type Event,
  EventSchema,
  type ExitStatus,
  ExitStatusSchema,
  type Hello,
  HelloSchema,
  RequestSchema,
  type Response,
  ResponseSchema,
  TerminalSizeSchema,
} from "./gen/tinderbox/agent/v1/agent_pb.ts";

export type RequestBody = NonNullable<MessageInitShape<typeof RequestSchema>["body"]>;

const errorCodes: Readonly<Record<Error_Code, ErrorCode>> = {
  [Error_Code.UNKNOWN]: "AGENT",
  [Error_Code.INVALID]: "INVALID",
  [Error_Code.NOT_FOUND]: "NOT_FOUND",
  [Error_Code.EXISTS]: "EXISTS",
  [Error_Code.WRONG_STATE]: "WRONG_STATE",
  [Error_Code.RUNTIME]: "RUNTIME",
  [Error_Code.IO]: "AGENT",
  [Error_Code.UNSUPPORTED]: "UNSUPPORTED",
};

/** Bytes one DATA frame carries; small enough that a stream never holds the other direction up for long. */
const dataChunkBytes = 64 << 10;
const streamWindowBytes = 256 << 10;

type Waiting = { readonly resolve: (response: Response) => void; readonly reject: (cause: Error) => void };

/** What a connection becomes after an open_* request. One reader. */
export class AgentStream {
  readonly #socket: Duplex;
  readonly #queue: Frame[] = [];
  #queuedBytes = 0;
  #ended = false;
  #failure: Error | undefined;
  #wakeReader: (() => void) | undefined;
  #wakeFeeder: (() => void) | undefined;

  constructor(socket: Duplex) {
    this.#socket = socket;
  }

  /** For the connection: takes a frame in, resolves when there is room for the next. */
  async feed(frame: Frame): Promise<void> {
    this.#queue.push(frame);
    this.#queuedBytes += frame.payload.length;
    this.#wakeReader?.();
    while (this.#queuedBytes > streamWindowBytes && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wakeFeeder = resolve;
      });
    }
  }

  /** For the connection: nothing more comes. */
  end(failure?: Error): void {
    this.#ended = true;
    this.#failure = failure;
    this.#wakeReader?.();
    this.#wakeFeeder?.();
  }

  /** The agent's frames; ends with the connection, throws when it broke. */
  async *frames(): AsyncGenerator<Frame> {
    for (;;) {
      const frame = this.#queue.shift();
      if (frame) {
        this.#queuedBytes -= frame.payload.length;
        this.#wakeFeeder?.();
        yield frame;
      } else if (this.#ended) {
        if (this.#failure) throw this.#failure;
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wakeReader = resolve;
        });
      }
    }
  }

  async #write(bytes: Uint8Array): Promise<void> {
    if (this.#socket.destroyed || this.#ended)
      throw new TinderboxError("AGENT", "the stream to the agent is closed");
    if (!this.#socket.write(bytes))
      await Promise.race([once(this.#socket, "drain"), once(this.#socket, "close")]);
  }

  /** Resolves when the socket has taken all of it. */
  async writeData(channel: number, data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length; at += dataChunkBytes) {
      await this.#write(encodeFrame(frameKind.data, channel, data.subarray(at, at + dataChunkBytes)));
    }
  }
  writeEof(channel: number): Promise<void> {
    return this.#write(encodeFrame(frameKind.eof, channel));
  }
  resize(width: number, height: number): Promise<void> {
    return this.#write(
      encodeFrame(
        frameKind.resize,
        0,
        toBinary(TerminalSizeSchema, create(TerminalSizeSchema, { width, height })),
      ),
    );
  }
  /** Log streams: every byte below `offset` is safe here. */
  acknowledge(offset: bigint): Promise<void> {
    const payload = Buffer.alloc(8);
    payload.writeBigUInt64BE(offset);
    return this.#write(encodeFrame(frameKind.ack, 0, payload));
  }
  close(): void {
    this.end();
    this.#socket.destroy();
  }

  static exitOf(frame: Frame): ExitStatus {
    return fromBinary(ExitStatusSchema, frame.payload);
  }
}

/** One connection in call mode, or turned into a stream. */
export class AgentConnection {
  readonly hello: Hello;
  readonly #socket: Duplex;
  readonly #waiting = new Map<bigint, Waiting>();
  readonly #listeners = new Set<(event: Event) => void>();
  readonly #closed = Promise.withResolvers<Error | undefined>();
  #isClosed = false;
  #nextId = 1n;
  #opening: bigint | undefined;
  #stream: AgentStream | undefined;

  private constructor(socket: Duplex, hello: Hello) {
    this.#socket = socket;
    this.hello = hello;
  }

  /** Waits for the agent's Hello on a fresh connection. @throws AGENT, TIMEOUT */
  static async open(
    socket: Duplex,
    options: { readonly timeoutMs?: number; readonly signal?: AbortSignal } = {},
  ): Promise<AgentConnection> {
    socket.on("error", () => {});
    const opened = Promise.withResolvers<AgentConnection>();
    const milliseconds = options.timeoutMs ?? 10_000;
    const timer = setTimeout(
      () => fail(new TinderboxError("TIMEOUT", `no Hello from the agent after ${milliseconds} ms`)),
      milliseconds,
    );
    const fail = (cause: unknown): void => {
      opened.reject(cause);
      socket.destroy();
    };
    const onAbort = (): void => fail(options.signal?.reason);
    options.signal?.addEventListener("abort", onAbort, { once: true });
    if (options.signal?.aborted) onAbort();
    void AgentConnection.#read(socket, opened);
    try {
      return await opened.promise;
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", onAbort);
    }
  }

  static async #read(socket: Duplex, opened: PromiseWithResolvers<AgentConnection>): Promise<void> {
    let connection: AgentConnection | undefined;
    let failure: Error | undefined;
    try {
      const decoder = new FrameDecoder();
      for await (const chunk of socket as AsyncIterable<Uint8Array>) {
        for (const frame of decoder.push(chunk)) {
          if (connection) await connection.#take(frame);
          else {
            if (frame.kind !== frameKind.hello)
              throw new TinderboxError(
                "AGENT",
                `the agent began with frame kind ${frame.kind} instead of Hello`,
              );
            const hello = fromBinary(HelloSchema, frame.payload);
            if (hello.protocol !== 1)
              throw new TinderboxError(
                "AGENT",
                `the agent speaks protocol ${hello.protocol}; 1 is understood`,
              );
            connection = new AgentConnection(socket, hello);
            opened.resolve(connection);
          }
        }
      }
      if (!decoder.isBetweenFrames)
        throw new TinderboxError("AGENT", "the agent's connection ended within a frame");
    } catch (cause) {
      failure = TinderboxError.from(cause, "AGENT");
    }
    socket.destroy();
    const reason = failure ?? new TinderboxError("AGENT", "the agent closed the connection");
    opened.reject(reason);
    if (connection) connection.#end(reason, failure);
  }

  #end(reason: Error, failure: Error | undefined): void {
    this.#isClosed = true;
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
    this.#stream?.end(failure);
    this.#closed.resolve(failure);
  }

  async #take(frame: Frame): Promise<void> {
    if (this.#stream) return this.#stream.feed(frame);
    if (frame.kind === frameKind.response) {
      const response = fromBinary(ResponseSchema, frame.payload);
      const waiting = this.#waiting.get(response.id);
      this.#waiting.delete(response.id);
      // Made here, before the next frame is looked at: the stream's first bytes may follow at once.
      if (response.id === this.#opening && !response.error) this.#stream = new AgentStream(this.#socket);
      waiting?.resolve(response);
    } else if (frame.kind === frameKind.event) {
      const event = fromBinary(EventSchema, frame.payload);
      for (const listener of this.#listeners) listener(event);
    } else
      throw new TinderboxError("AGENT", `unexpected frame kind ${frame.kind} from the agent in call mode`);
  }

  /** Resolves when the connection has ended, with the fault if it was one. */
  get closed(): Promise<Error | undefined> {
    return this.#closed.promise;
  }
  get isOpen(): boolean {
    return !this.#isClosed && !this.#socket.destroyed;
  }

  /** Sends a request; its answer. An abort stops the waiting, not the agent. @throws by the agent's code, AGENT when the connection ends */
  async call(body: RequestBody, signal?: AbortSignal): Promise<Response> {
    return this.#call(this.#nextId++, body, signal);
  }

  #call(id: bigint, body: RequestBody, signal: AbortSignal | undefined): Promise<Response> {
    return span("agent", body.case ?? "", () => this.#ask(id, body, signal));
  }

  async #ask(id: bigint, body: RequestBody, signal: AbortSignal | undefined): Promise<Response> {
    signal?.throwIfAborted();
    if (!this.isOpen) throw new TinderboxError("AGENT", "the connection to the agent is closed");
    if (this.#stream) throw new TinderboxError("INTERNAL", "this agent connection has become a stream");
    const payload = toBinary(RequestSchema, create(RequestSchema, { id, body }));
    const answer = Promise.withResolvers<Response>();
    this.#waiting.set(id, answer);
    const onAbort = (): void => {
      this.#waiting.delete(id);
      answer.reject(signal?.reason);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      this.#socket.write(encodeFrame(frameKind.request, 0, payload));
      const response = await answer.promise;
      if (response.error) {
        throw new TinderboxError(
          errorCodes[response.error.code] ?? "AGENT",
          `${body.case ?? "request"}: ${response.error.message}`,
        );
      }
      return response;
    } finally {
      this.#waiting.delete(id);
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Events from now on, beginning with the state of each container there is. */
  async subscribe(listener: (event: Event) => void): Promise<void> {
    this.#listeners.add(listener);
    await this.call({ case: "subscribe", value: {} });
  }

  /** Turns this connection into a stream by one of the open_* requests. */
  async openStream(body: RequestBody, signal?: AbortSignal): Promise<AgentStream> {
    const id = this.#nextId++;
    this.#opening = id;
    await this.#call(id, body, signal);
    if (!this.#stream) throw new TinderboxError("AGENT", "the agent opened no stream");
    return this.#stream;
  }

  close(): void {
    this.#socket.destroy();
  }
}
