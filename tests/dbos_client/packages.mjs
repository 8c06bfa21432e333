// The official SDK, from the directory that the test installed it into (STEPWELL_NPM).
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const packages = createRequire(pathToFileURL(join(process.env.STEPWELL_NPM, "package.json")));
export const { DBOS, DBOSClient } = packages("@dbos-inc/dbos-sdk");
export const { DBOSExecutor } = packages("@dbos-inc/dbos-sdk/internal/dbos-executor");
export const { globalParams } = packages("@dbos-inc/dbos-sdk/internal/utils");
