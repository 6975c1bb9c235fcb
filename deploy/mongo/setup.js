// Run by mongosh beside mongod, at every start: makes of a fresh server what Orderflow needs, and of a known one what
// it needs now. Each step looks first, so that an interrupted run is taken up where it ended.
//
// ROLES names a file with a role for each user, under the folder of the user's secret. The role and the user live in the
// database that the user signs in to.

const fs = require("fs");

const MEMBER = "mongo:27017";
const REPLICA_SET = { _id: "orderflow", members: [{ _id: 0, host: MEMBER }] };
// The size that app/messaging/live_feed.py gives it.
const STAGES = { create: "stages", capped: true, size: 8 * 1024 * 1024 };
const PATIENCE_MS = 120_000;
const AUTHENTICATION_FAILED = 18;
const NAMESPACE_EXISTS = 48;

const read = (file) => fs.readFileSync(file, "utf8").trim();
const adminPassword = read("/run/secrets/admin/password");
const roles = JSON.parse(read(process.env.ROLES ?? "/deploy/roles.json"));

function onThisHost(credentials) {
  return new Mongo(`mongodb://${credentials}127.0.0.1:27017/?directConnection=true&serverSelectionTimeoutMS=2000`);
}

function eventually(look) {
  const ends = Date.now() + PATIENCE_MS;
  for (;;) {
    let trouble = "no primary";
    try {
      if (look()) return;
    } catch (error) {
      trouble = error.message;
    }
    if (Date.now() > ends) throw new Error(`mongod is not ready: ${trouble}`);
    sleep(250);
  }
}

function hasPrimary() {
  const admin = onThisHost("").getDB("admin");
  const hello = admin.hello();
  if (hello.isreplicaset) admin.runCommand({ replSetInitiate: REPLICA_SET });
  return hello.isWritablePrimary;
}

function signsIn(uri) {
  try {
    new Mongo(uri).close();
    return true;
  } catch (error) {
    if (error.code !== AUTHENTICATION_FAILED) throw error;
    return false;
  }
}

function administrator() {
  const credentials = `admin:${adminPassword}@`;
  try {
    return onThisHost(credentials).getDB("admin");
  } catch (error) {
    if (error.code !== AUTHENTICATION_FAILED) throw error;
  }
  // Allowed from this host as long as there is no user at all.
  onThisHost("").getDB("admin").createUser({ user: "admin", pwd: adminPassword, roles: ["root"] });
  print("made the user admin");
  return onThisHost(credentials).getDB("admin");
}

function allow(database, { role, privileges, roles }) {
  if (database.getRole(role)) database.updateRole(role, { privileges, roles });
  else database.createRole({ role, privileges, roles });
}

function admit(database, uri, roles) {
  const { username, password } = new URL(uri);
  if (database.getUser(username)) {
    database.updateUser(username, signsIn(uri) ? { roles } : { roles, pwd: password });
  } else {
    database.createUser({ user: username, pwd: password, roles });
    print(`made the user ${username}`);
  }
  if (!signsIn(uri)) throw new Error(`${username} cannot sign in`);
}

// Several modules write into it, and may before the gateway is there: the first to write would make it without bounds.
function bound(database) {
  try {
    database.runCommand(STAGES);
  } catch (error) {
    if (error.code !== NAMESPACE_EXISTS) throw error;
  }
}

eventually(hasPrimary);
const admin = administrator();
for (const [secret, role] of Object.entries(roles)) {
  const uri = read(`/run/secrets/${secret}/mongodb-uri`);
  const home = admin.getSiblingDB(new URL(uri).searchParams.get("authSource"));
  allow(home, role);
  admit(home, uri, [role.role]);
}
if (roles.gateway) bound(admin.getSiblingDB("gateway"));
print("the database is ready");
