/** The CLI's way to the daemon: CRI over its unix socket, as crictl has it, and our own service for images on disk. */
import { resolve } from "node:path";
import { TinderboxError } from "../base/errors.ts";
import { ImageService, RuntimeService } from "../rpc/gen/runtime/v1/api_pb.ts";
import { Images } from "../rpc/gen/tinderbox/images/v1/images_pb.ts";
import { createGrpcClient, type GrpcClient } from "../rpc/grpc-client.ts";

export type GlobalOptions = { readonly socket: string; readonly json: boolean };

export type CriClients = {
  readonly runtime: GrpcClient<typeof RuntimeService>;
  readonly images: GrpcClient<typeof ImageService>;
  /** Ours, beside CRI */
  readonly imports: GrpcClient<typeof Images>;
};

/** Runs `work` with clients of the daemon; closes them after it. */
export async function withDaemon<T>(
  options: GlobalOptions,
  work: (clients: CriClients) => Promise<T>,
): Promise<T> {
  const address = `unix://${resolve(options.socket)}`;
  const runtime = createGrpcClient(RuntimeService, address);
  const images = createGrpcClient(ImageService, address);
  const imports = createGrpcClient(Images, address);
  try {
    return await work({ runtime, images, imports });
  } catch (cause) {
    const error = TinderboxError.from(cause);
    if (error.code !== "UNAVAILABLE") throw error;
    // The errno alone: the rest of the text is gRPC's inner life.
    const why = /connect (E[A-Z]+)/.exec(error.message)?.[1] ?? error.message;
    throw new TinderboxError("UNAVAILABLE", `no daemon answers on ${options.socket} (${why})`, {
      cause,
      hint: "start one: tinderboxd",
    });
  } finally {
    runtime.close();
    images.close();
    imports.close();
  }
}
