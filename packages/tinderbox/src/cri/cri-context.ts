/** What the CRI calls work with. */
import type { Logger } from "../base/log.ts";
import type { Engine } from "../engine/contract.ts";
import type { ImageService, RuntimeService } from "../rpc/gen/runtime/v1/api_pb.ts";
import type { CallObserver } from "../rpc/grpc-call.ts";
import type { ServiceHandlers } from "../rpc/grpc-server.ts";

/** Makes single-use URLs for streams; `streaming/streaming-server.ts` implements it. */
export type StreamingUrls = {
  execUrl(session: ExecSession): string;
  attachUrl(session: AttachSession): string;
  portForwardUrl(session: PortForwardSession): string;
};

type Streams = {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly tty: boolean;
};
export type ExecSession = Streams & { readonly containerId: string; readonly command: readonly string[] };
export type AttachSession = Streams & { readonly containerId: string };
export type PortForwardSession = { readonly podId: string };

export type CriContext = {
  readonly engine: Engine;
  readonly streaming: StreamingUrls;
  readonly logger: Logger;
  /** Shown by Status verbose; JSON */
  readonly configJson: string;
  /** Told of each call's end */
  readonly observe?: CallObserver;
};

/** Handlers of some calls of the runtime service. */
export type RuntimeCalls = ServiceHandlers<typeof RuntimeService>;
/** Handlers of some calls of the image service. */
export type ImageCalls = ServiceHandlers<typeof ImageService>;
