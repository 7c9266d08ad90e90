/** What is wrong with a request before it is sent: the phase, the version, the body's fields. By the table in operations.ts alone. */
import { FirecrackerArgumentError, FirecrackerStateError, FirecrackerVersionError } from "./errors.ts";
import { type FieldSpec, newestKnownVersion, type OperationSpec, type PathUse } from "./operations.ts";
import { compareVmmVersions, isSupportedSince, parseVmmVersion } from "./version.ts";

/** What the VM does: from GET / or from what was asked of it. */
export type VmPhase = "before" | "running" | "paused";

/** An object of a body. */
export type Body = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Body =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The path with its id in it. @throws {FirecrackerArgumentError} FC_ARGUMENT */
export function requestPath(operation: OperationSpec, id: unknown): string {
  if (!operation.path.includes("{}")) return operation.path;
  if (typeof id !== "string" || !/^[0-9A-Za-z_]+$/.test(id)) {
    throw new FirecrackerArgumentError(
      operation.id ?? "id",
      `${JSON.stringify(id)} is not made of letters, digits and _`,
    );
  }
  return operation.path.replace("{}", id);
}

/** Whether the call fits the phase. @throws {FirecrackerStateError} FC_STATE */
export function checkPhase(operation: OperationSpec, path: string, phase: VmPhase): void {
  const { when } = operation;
  const fits =
    when === "any" ||
    (when === "before" && (phase === "before" || operation.afterSince !== undefined)) ||
    (when === "after" && phase !== "before") ||
    (when === "paused" && phase === "paused");
  if (fits) return;
  const is = { before: "not started", running: "running", paused: "paused" }[phase];
  const needed = { before: "before the start", after: "after the start", paused: "while paused", any: "" };
  throw new FirecrackerStateError(
    `${operation.method} ${path} is possible only ${needed[when]}; this machine is ${is}`,
  );
}

/** Whether this version knows the operation and all that is in its body. @throws {FirecrackerVersionError} FC_VERSION */
export function checkVersion(
  operation: OperationSpec,
  path: string,
  body: Body | undefined,
  phase: VmPhase,
  versionText: string,
): void {
  const version = parseVmmVersion(versionText);
  const isNewer = compareVmmVersions(version, parseVmmVersion(`${newestKnownVersion}.99999`)) > 0;
  const need = (feature: string, since: readonly string[] | undefined): void => {
    if (since && !isSupportedSince(version, since))
      throw new FirecrackerVersionError(feature, since, versionText);
  };
  const name = `${operation.method} ${path}`;
  need(name, operation.since);
  if (operation.when === "before" && phase !== "before")
    need(`${name} after the start`, operation.afterSince);
  const checkFields = (fields: Readonly<Record<string, FieldSpec>>, value: Body, prefix: string): void => {
    for (const [key, part] of Object.entries(value)) {
      if (part === undefined || part === null) continue;
      const feature = `${name}: ${prefix}${key}`;
      const field = Object.hasOwn(fields, key) ? fields[key] : undefined;
      if (field === undefined) {
        if (isNewer) continue;
        throw new FirecrackerVersionError(feature, [], versionText);
      }
      need(feature, field.since);
      if (typeof part === "string" && field.values && Object.hasOwn(field.values, part))
        need(`${feature} ${JSON.stringify(part)}`, field.values[part]);
      if (field.fields === undefined) continue;
      for (const item of Array.isArray(part) ? part : [part])
        if (isObject(item)) checkFields(field.fields, item, `${prefix}${key}.`);
    }
  };
  if (operation.body && body) checkFields(operation.body, body, "");
}

/** The rules that the VMM does not check itself, or tells badly. @throws {FirecrackerArgumentError} FC_ARGUMENT */
export function checkBody(operation: OperationSpec, body: Body | undefined): void {
  if (operation.path === "/vsock") {
    const cid = body?.["guest_cid"];
    if (typeof cid !== "number" || !Number.isInteger(cid) || cid < 3 || cid > 0xffff_ffff)
      throw new FirecrackerArgumentError("guest_cid", `${String(cid)} is not within 3..4294967295`);
  }
  if (operation.path === "/snapshot/load") {
    if ((body?.["mem_backend"] === undefined) === (body?.["mem_file_path"] === undefined))
      throw new FirecrackerArgumentError("mem_backend", "exactly one of mem_backend and mem_file_path");
  }
  if (operation.method === "PATCH" && operation.path === "/machine-config" && body) {
    if (Object.values(body).every((value) => value === undefined))
      throw new FirecrackerArgumentError("machine-config", "a PATCH needs at least one field");
  }
}

/** Calls `translate` for each path in a body; the body with the answers in their places. `hints` are more fields to tell a path's use by. */
export async function translatePaths(
  fields: Readonly<Record<string, FieldSpec>>,
  body: Body,
  translate: (path: string, use: PathUse) => string | Promise<string>,
  hints: Body = {},
): Promise<Body> {
  const result: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(body)) {
    const field = Object.hasOwn(fields, key) ? fields[key] : undefined;
    if (field?.path !== undefined && typeof value === "string") {
      result[key] = await translate(
        value,
        typeof field.path === "function" ? field.path({ ...hints, ...body }) : field.path,
      );
    } else if (field?.fields !== undefined && isObject(value)) {
      result[key] = await translatePaths(field.fields, value, translate);
    } else {
      result[key] = value;
    }
  }
  return result;
}
