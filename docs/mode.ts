// Which store an application reads that reads DynamoDB itself: by the mode item of `migrate` (docs/mode.md).
//
//   const mode = new ModeReader(new DynamoDBClient({}), "fuse-main-migration");
//   const item = (await mode.readsDynamoDB(pathname)) ? await fromDynamoDB(id) : await fromBlob(pathname);

import { createHash } from "node:crypto";
import { DynamoDBClient, GetItemCommand } from "@aws-sdk/client-dynamodb";

export type Phase = "capture" | "shadow" | "canary" | "cutover" | "final";

export interface Mode {
  phase: Phase;
  epoch: number;
  canary?: { percent: number; prefixes: string[] };
}

export class ModeReader {
  #kept?: { mode: Mode; at: number };
  #asking?: Promise<Mode>;

  /** `keepMs`: so old may the answer be. `graceMs`: so old may it be while DynamoDB does not answer. */
  constructor(
    private readonly client: DynamoDBClient,
    private readonly controlTable: string,
    private readonly keepMs = 1_000,
    private readonly graceMs = 10_000,
  ) {}

  /** The mode item, asked for at most once in `keepMs`, however many want to know. */
  async mode(): Promise<Mode> {
    const age = this.#kept ? Date.now() - this.#kept.at : Infinity;
    if (this.#kept && age < this.keepMs) return this.#kept.mode;
    this.#asking ??= this.#ask().finally(() => (this.#asking = undefined));
    try {
      return await this.#asking;
    } catch (error) {
      if (this.#kept && age < this.graceMs) return this.#kept.mode;
      throw error;
    }
  }

  /** Whether what is stored under this pathname of Blob is to be read from DynamoDB now. */
  async readsDynamoDB(pathname: string): Promise<boolean> {
    const { phase, canary } = await this.mode();
    switch (phase) {
      case "capture":
      case "shadow":
        return false;
      case "canary":
        return canary !== undefined && isInCanary(pathname, canary);
      case "cutover":
      case "final":
        return true;
    }
  }

  async #ask(): Promise<Mode> {
    const at = Date.now();
    const key = { pk: { S: "MODE" }, sk: { S: "MODE" } };
    const asked = new GetItemCommand({ TableName: this.controlTable, Key: key, ConsistentRead: true });
    const { Item: item } = await this.client.send(asked);
    // Before the first command that writes there is none.
    const mode: Mode = { phase: "capture", epoch: 1 };
    if (item) {
      if (item.format?.N !== "1") throw new Error(`the mode item has format ${item.format?.N}, this program knows 1`);
      mode.phase = item.phase.S as Phase;
      mode.epoch = Number(item.epoch.N);
      const canary = item.canary?.M;
      if (canary) {
        const prefixes = canary.prefixes?.L?.map((prefix) => prefix.S!) ?? [];
        mode.canary = { percent: Number(canary.percent.N), prefixes };
      }
    }
    this.#kept = { mode, at };
    return mode;
  }
}

/** The SHA-256 of the pathname as a number, modulo 10,000, is below the share; a larger share holds every smaller one. */
export function isInCanary(pathname: string, canary: { percent: number; prefixes: string[] }): boolean {
  const { percent, prefixes } = canary;
  if (prefixes.length > 0 && !prefixes.some((prefix) => pathname.startsWith(prefix))) return false;
  const digest = createHash("sha256").update(pathname).digest("hex");
  return Number(BigInt(`0x${digest}`) % 10_000n) < percent * 100;
}
