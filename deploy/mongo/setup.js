// Run by mongosh beside mongod, at every start: makes of a fresh server what Orderflow needs, and of a known one what
// it needs now. Each step looks first, so that an interrupted run is taken up where it ended.

const fs = require("fs");

const MEMBER = "mongo:27017";
const REPLICA_SET = { _id: "orderflow", members: [{ _id: 0, host: MEMBER }] };
const PATIENCE_MS = 120_000;
const AUTHENTICATION_FAILED = 18;

const read = (file) => fs.readFileSync(file, "utf8").trim();
const adminPassword = read("/run/secrets/admin/password");
const appUri = read("/run/secrets/app/mongodb-uri");
const role = JSON.parse(read("/deploy/role.json"));

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

function allow(database) {
  if (database.getRole(role.role)) database.updateRole(role.role, { privileges: role.privileges, roles: role.roles });
  else database.createRole(role);
}

function admit(database) {
  const { username, password } = new URL(appUri);
  const roles = [role.role];
  if (database.getUser(username)) {
    database.updateUser(username, signsIn(appUri) ? { roles } : { roles, pwd: password });
  } else {
    database.createUser({ user: username, pwd: password, roles });
    print(`made the user ${username}`);
  }
}

eventually(hasPrimary);
const database = administrator().getSiblingDB("orderflow");
allow(database);
admit(database);
if (!signsIn(appUri)) throw new Error("the application cannot sign in");
print("the database is ready");
