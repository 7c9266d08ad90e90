/** HTTP on the VMM's unix socket, by one kept-alive connection. */
import { Agent, request as httpRequest } from "node:http";
import { FirecrackerApiError } from "./errors.ts";
import type { Method } from "./operations.ts";

const maxAnswerBytes = 8 << 20;

/** What a failure's body says; the HTTP layer's own failures are not always valid JSON. */
function faultOf(body: string): string {
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed === "object" && parsed !== null) {
      if ("fault_message" in parsed && typeof parsed.fault_message === "string") return parsed.fault_message;
      if ("error" in parsed && typeof parsed.error === "string") return parsed.error;
    }
  } catch {
    // falls through to the text itself
  }
  return body.trim() || "no reason given";
}

/** The connection to one socket. Making it does not connect. */
export class HttpTransport implements Disposable {
  readonly socketPath: string;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1, maxFreeSockets: 1 });

  constructor(socketPath: string) {
    this.socketPath = socketPath;
  }

  /** The parsed answer, undefined for an empty one. @throws {FirecrackerApiError} FC_API */
  exchange(method: Method, path: string, payload: Buffer | undefined, stop: AbortSignal): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const headers: Record<string, string | number> = { Accept: "application/json" };
      if (payload !== undefined) {
        headers["Content-Type"] = "application/json";
        // Chunked bodies are not decoded by the server.
        headers["Content-Length"] = payload.length;
      }
      const fail = (cause: Error): void =>
        reject(new FirecrackerApiError(method, path, 0, cause.message, cause));
      const outgoing = httpRequest({
        socketPath: this.socketPath,
        method,
        path,
        headers,
        agent: this.#agent,
        signal: stop,
      });
      outgoing.once("error", fail);
      outgoing.once("response", (answer) => {
        const chunks: Buffer[] = [];
        let size = 0;
        answer.on("data", (chunk: Buffer) => {
          size += chunk.length;
          if (size > maxAnswerBytes)
            outgoing.destroy(new Error(`an answer of more than ${maxAnswerBytes} bytes`));
          else chunks.push(chunk);
        });
        answer.once("error", fail);
        answer.once("end", () => {
          const text = Buffer.concat(chunks).toString("utf8");
          const status = answer.statusCode ?? 0;
          if (status < 200 || status > 299)
            return reject(new FirecrackerApiError(method, path, status, faultOf(text)));
          if (text === "") return resolve(undefined);
          try {
            resolve(JSON.parse(text));
          } catch (cause) {
            reject(new FirecrackerApiError(method, path, status, "the answer is not JSON", cause));
          }
        });
      });
      outgoing.end(payload);
    });
  }

  /** Closes the connection; a request still under way fails. */
  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}
