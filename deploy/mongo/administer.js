// For mongosh --shell beside mongod: signs in as the administrator.

const password = require("fs").readFileSync("/run/secrets/admin/password", "utf8").trim();
db = connect(`mongodb://admin:${password}@127.0.0.1:27017/?directConnection=true`);
