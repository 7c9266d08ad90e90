/** A row of the table in docs/cri-fields.md, with the check that makes it true. */
import type { Scene } from "./scene.ts";

export type Handler = "crun" | "runc" | "firecracker";
export type Place = "host" | "microvm";

export const placeOf = (handler: Handler): Place => (handler === "firecracker" ? "microvm" : "host");

export type Outcome =
  /** Its effect is seen in the container or on the host */
  | "obeyed"
  /** It is text for people and clients, or a hint: a status has it as it was sent */
  | "told back"
  /** With an error that has the field's name */
  | "refused"
  /** Checked, and refused when it is wrong; there is nothing for it to change here */
  | "nothing to do";

export type Row = {
  /** Whole paths, as `leafPaths` gives them */
  readonly fields: readonly string[];
  /** Absent: in both */
  readonly on?: Place;
  readonly outcome: Outcome;
  /** What was looked for, in a few words */
  readonly note: string;
  readonly check: (scene: Scene) => Promise<void> | void;
};

/** The paths of fields beside each other: `below("ContainerConfig.metadata", "name attempt")`. */
export function below(path: string, names: string): readonly string[] {
  return names.split(" ").map((name) => `${path}.${name}`);
}
