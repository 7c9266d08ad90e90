/** The CRI's two services over an engine. A call that is not here answers UNIMPLEMENTED by its name. */
import { ImageService, RuntimeService } from "../rpc/gen/runtime/v1/api_pb.ts";
import { GrpcServer } from "../rpc/grpc-server.ts";
import { containerEventCalls } from "./container-events.ts";
import { containerLifecycleCalls } from "./container-lifecycle.ts";
import { containerQueryCalls } from "./container-queries.ts";
import type { CriContext } from "./cri-context.ts";
import { execSyncCalls } from "./exec-sync.ts";
import { imageCalls } from "./image-calls.ts";
import { podLifecycleCalls } from "./pod-lifecycle.ts";
import { podMetricCalls } from "./pod-metrics.ts";
import { podQueryCalls } from "./pod-queries.ts";
import { runtimeStatusCalls } from "./runtime-status.ts";
import { statsCalls } from "./stats.ts";
import { streamUrlCalls } from "./stream-urls.ts";

/** A server with both services, not listening yet. */
export function createCriServer(context: CriContext): GrpcServer {
  const server = new GrpcServer();
  const runtime = {
    ...runtimeStatusCalls(context),
    ...podLifecycleCalls(context),
    ...podQueryCalls(context),
    ...containerLifecycleCalls(context),
    ...containerQueryCalls(context),
    ...execSyncCalls(context),
    ...streamUrlCalls(context),
    ...statsCalls(context),
    ...podMetricCalls(context),
    ...containerEventCalls(context),
  };
  const { logger, observe } = context;
  server.add(RuntimeService, runtime, logger, observe);
  server.add(ImageService, imageCalls(context), logger, observe);
  return server;
}
