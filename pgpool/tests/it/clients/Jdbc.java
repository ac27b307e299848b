// PostgreSQL's JDBC driver through the pooler: argument 1 is `session` or `transaction`. It prepares
// by name after some uses, opens named portals, and asks for timeouts by cancelling.
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Properties;

public class Jdbc {
  static final List<String> FAILED = Collections.synchronizedList(new ArrayList<>());

  static Connection connect() throws SQLException {
    var env = System.getenv();
    var with = new Properties();
    with.put("user", env.get("PGUSER"));
    with.put("password", env.get("PGPASSWORD"));
    with.put("sslmode", "disable");
    with.put("prepareThreshold", "2");
    with.put("preparedStatementCacheQueries", "4");
    var url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE");
    return DriverManager.getConnection(url, with);
  }

  static void check(boolean isSo, String what) {
    if (!isSo) throw new AssertionError(what);
  }

  static long number(Connection connection, String sql) throws SQLException {
    try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
      rows.next();
      return rows.getLong(1);
    }
  }

  static void client(int me) throws SQLException {
    try (Connection connection = connect()) {
      for (int turn = 0; turn < 60; turn++) {
        var sql = "select ?::int, " + turn % 7 + ", ?::int";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
          statement.setInt(1, me);
          statement.setInt(2, turn);
          try (ResultSet rows = statement.executeQuery()) {
            check(rows.next() && rows.getInt(1) == me && rows.getInt(2) == turn % 7, "row of " + turn);
            check(rows.getInt(3) == turn, "parameter of " + turn);
          }
        }
      }
      connection.setAutoCommit(false);
      connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
      try (PreparedStatement insert = connection.prepareStatement("insert into log_java values (?, ?)")) {
        for (int n = 0; n < 300; n++) {
          insert.setInt(1, me);
          insert.setInt(2, n);
          insert.addBatch();
        }
        check(insert.executeBatch().length == 300, "batch");
      }
      Savepoint savepoint = connection.setSavepoint("before");
      try {
        number(connection, "select 1/0");
        check(false, "the error is lost");
      } catch (SQLException fault) {
        check("22012".equals(fault.getSQLState()), "state " + fault.getSQLState());
      }
      connection.rollback(savepoint);
      connection.commit();
      check(number(connection, "select count(*) from log_java where who = " + me) == 300, "rows");
      try (PreparedStatement all = connection.prepareStatement("select g from generate_series(1, 1000) g")) {
        all.setFetchSize(50);
        long sum = 0;
        try (ResultSet rows = all.executeQuery()) {
          while (rows.next()) sum += rows.getLong(1);
        }
        check(sum == 500500, "a portal in pieces");
      }
      connection.rollback();
      connection.setAutoCommit(true);
      try (Statement slow = connection.createStatement()) {
        slow.setQueryTimeout(1);
        slow.execute("select pg_sleep(20)");
        check(false, "nothing was cancelled");
      } catch (SQLException fault) {
        check("57014".equals(fault.getSQLState()), "state " + fault.getSQLState());
      }
      connection.setReadOnly(true);
      connection.setReadOnly(false);
      connection.setSchema("public");
      check("public".equals(connection.getSchema()), "schema");
      check(connection.isValid(5), "valid");
      try (ResultSet tables = connection.getMetaData().getTables(null, "public", "log_java", null)) {
        check(tables.next(), "the catalogue");
      }
    }
  }

  public static void main(String[] arguments) throws Exception {
    try (Connection first = connect(); Statement statement = first.createStatement()) {
      statement.execute("drop table if exists log_java; create table log_java (who int, n int)");
    }
    var threads = new ArrayList<Thread>();
    for (int n = 0; n < (arguments[0].equals("session") ? 2 : 6); n++) {
      int me = n;
      threads.add(new Thread(() -> {
        try {
          client(me);
        } catch (Throwable fault) {
          FAILED.add(me + ": " + fault);
        }
      }));
    }
    for (var thread : threads) thread.start();
    for (var thread : threads) thread.join();
    System.out.println(FAILED.isEmpty() ? "well" : String.join("\n", FAILED));
    System.exit(FAILED.isEmpty() ? 0 : 1);
  }
}
