/** A LIFO of undo steps: every acquisition pushes the step that gives it back. */
import { TinderboxError } from "./errors.ts";

type Step = { readonly name: string; readonly run: () => void | Promise<void> };

/**
 * Collects undo steps. `await using undo = new UndoStack()` runs them in reverse order unless `commit()` was
 * called. All steps run even when some fail; the failures are thrown together as CLEANUP.
 */
export class UndoStack implements AsyncDisposable {
  #steps: Step[] = [];

  /** Adds a step; `name` says what is given back ("remove tap0"). */
  defer(name: string, run: () => void | Promise<void>): void {
    this.#steps.push({ name, run });
  }

  /** Forgets every step: what was acquired is now owned by somebody else. */
  commit(): void {
    this.#steps = [];
  }

  /** Runs the steps now, newest first. */
  async unwind(): Promise<void> {
    const failures: string[] = [];
    const causes: unknown[] = [];
    for (let step = this.#steps.pop(); step; step = this.#steps.pop()) {
      try {
        await step.run();
      } catch (cause) {
        failures.push(`${step.name}: ${TinderboxError.from(cause).message}`);
        causes.push(cause);
      }
    }
    if (failures.length > 0) {
      throw new TinderboxError("CLEANUP", `undo failed: ${failures.join("; ")}`, {
        cause: causes.length === 1 ? causes[0] : new AggregateError(causes),
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unwind();
  }
}
