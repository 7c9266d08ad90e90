/** How the end of a command is told on the error stream: Kubernetes' Status as JSON (v4 on), plain text before. */
import type { ExitResult } from "../../sandbox/contract.ts";

export type SessionEnd =
  | { readonly kind: "exit"; readonly exit: ExitResult }
  | { readonly kind: "failure"; readonly message: string };

function failureOf(end: SessionEnd): string | undefined {
  if (end.kind === "failure") return end.message;
  return end.exit.error === "" ? undefined : end.exit.error;
}

/** The JSON for v4.channel.k8s.io and later. */
export function statusJson(end: SessionEnd): string {
  const failure = failureOf(end);
  if (failure !== undefined) {
    return JSON.stringify({
      metadata: {},
      status: "Failure",
      reason: "InternalError",
      message: failure,
      code: 500,
    });
  }
  const code = end.kind === "exit" ? end.exit.code : 0;
  if (code === 0) return JSON.stringify({ metadata: {}, status: "Success" });
  return JSON.stringify({
    metadata: {},
    status: "Failure",
    reason: "NonZeroExitCode",
    message: `command terminated with non-zero exit code: ${code}`,
    details: { causes: [{ reason: "ExitCode", message: String(code) }] },
  });
}

/** The text for older protocols; "" for success. */
export function statusText(end: SessionEnd): string {
  const failure = failureOf(end);
  if (failure !== undefined) return failure;
  return end.kind === "exit" && end.exit.code !== 0
    ? `command terminated with non-zero exit code: ${end.exit.code}`
    : "";
}
