#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The databases of the tests themselves: what is stored survives kill -9, a frozen one hangs its clients, a real httpd gets
# its answers through mod_dbd and apr's driver, and nothing is left behind by a test that is killed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Database;
use ChatStream::Process qw(children_of);
use ChatStream::Test;
use Digest::SHA qw(sha1_base64);
use IO::Select;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);

my @KINDS = qw(sqlite3 pgsql mysql);

# Asks a frozen (or thawed) database from a process of its own; the handle on which its answer comes.
sub asker
{
    my ($kind, $params) = @_;
    my %dsn = (sqlite3 => "SQLite:dbname=$params", pgsql => "Pg:$params", mysql => "MariaDB:$params");
    $dsn{pgsql} =~ tr/ /;/;
    $dsn{pgsql} =~ s/;user=.*//;
    $dsn{mysql} =~ s/,user=[^,]*//;
    $dsn{mysql} =~ tr/,/;/;
    $dsn{mysql} =~ s/dbname=/database=/;
    my $program = 'my $h = DBI->connect("dbi:$ARGV[0]", "chatstream", "", { RaiseError => 1 });'
        . ' $h->do("INSERT INTO kept VALUES (9)"); print "stored\n"';
    open my $handle, '-|', $^X, '-MDBI', '-e', $program, $dsn{$kind} or die "fork: $!";
    return $handle;
}

sub alive_of { return grep { (slurp("/proc/$_/stat") // '') =~ /^\d+ \(.*\) [^ZX] /s } @_ }

for my $kind (@KINDS) {
    my $authorization = 'Basic ' . encode_base64('ada:lovelace', '');
    my $t = ChatStream::Test->new(
        start => 0, modules => [qw(dbd authn_core auth_basic authn_dbd authz_user)], config => <<'END',
<Location "/secret">
    AuthType Basic
    AuthName secret
    AuthBasicProvider dbd
    AuthDBDUserPWQuery "SELECT password FROM users WHERE name = %s"
    Require valid-user
</Location>
END
    );
    my $db = ChatStream::Database->new(kind => $kind, dir => $t->dir)->start;
    is $db->driver, $kind, "$kind: the driver's name is apr's";
    is $db->ctl, "$kind:" . $db->params, "$kind: chatstreamctl's name for it";

    # The test's own side.
    my $file = $t->dir . '/schema.sql';
    open my $schema, '>:utf8', $file or die $!;
    my $hash = '{SHA}' . sha1_base64('lovelace') . '=';
    print $schema "CREATE TABLE kept (number INT);\nCREATE TABLE users (name VARCHAR(32), password VARCHAR(64));\n",
        map { "INSERT INTO users VALUES ('$_', '$hash');\n" } 'ada', "\x{e9}\x{1F600}";
    close $schema or die $!;
    $db->load($file);
    is $db->value('SELECT count(*) FROM users WHERE name = ?', "\x{e9}\x{1F600}"), 1, "$kind: load, bound values and UTF-8";
    ok !eval { $db->load($file); 1 }, "$kind: a file with an error dies";
    like $@, qr/exists/, "$kind: and says why";
    ok !eval { $db->do('nonsense'); 1 }, "$kind: so does a statement";

    # kill -9 in the middle of a transaction.
    $db->do("INSERT INTO kept VALUES ($_)") for 1, 2;
    my $open = $db->dbh(AutoCommit => 0);
    $open->do('INSERT INTO kept VALUES (3)');
    my @processes = $kind eq 'sqlite3' ? () : ($db->pid, children_of($db->pid));
    my $params = $db->params;
    $db->kill;
    is_deeply [ alive_of(@processes) ], [], "$kind: killed";
    ok !IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $db->port), "$kind: and nobody listens"
        if $kind ne 'sqlite3';
    eval { $open->disconnect };
    $db->start;
    is $db->params, $params, "$kind: it comes back where it was";
    is_deeply [ map { $_->{number} } $db->query('SELECT number FROM kept ORDER BY number') ], [ 1, 2 ], "$kind: with what was committed";

    # httpd's side: mod_dbd, apr's driver, the proxy.
    $t->httpd->{server_config} = "DBDriver $kind\nDBDParams \"$params\"\nDBDMin 1\nDBDKeep 1\nDBDMax 4\n";
    my $page = $t->dir . '/htdocs/secret';
    open my $handle, '>', $page or die $!;
    print $handle 'the secret';
    close $handle or die $!;
    chmod 0644, $page;
    $t->start;
    my $ask = sub { $t->request('/secret', headers => { Authorization => $_[0] // $authorization }) };
    is $ask->()->body, 'the secret', "$kind: httpd asks it through mod_dbd";
    is $ask->('Basic ' . encode_base64('ada:wrong', ''))->status, 401, "$kind: and minds the answer";
    is $ask->('Basic ' . encode_base64("\xc3\xa9\xf0\x9f\x98\x80:lovelace", ''))->status, 200, "$kind: in UTF-8";
    $t->allow_log(qr/AH01617:|AH01618:/);
    if ($kind eq 'pgsql') {
        my $sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'chatstream' AND pid <> pg_backend_pid()";
        cmp_ok $db->value($sql), '>=', 1, 'pgsql: the server sees its connection';
    }

    # A client of a frozen database waits, and goes on when it has thawed.
    for my $what ('proxy', $kind eq 'sqlite3' ? () : 'server') {
        $db->freeze($what);
        my $answer = asker($kind, $params);
        my $through = $kind eq 'sqlite3' ? undef : $t->open('/secret', headers => { Authorization => $authorization });
        ok !IO::Select->new($answer, $through ? $through->socket : ())->can_read(0.4), "$kind: frozen ($what), it hangs its clients";
        is $db->value('SELECT count(*) FROM kept WHERE number = 9'), 0, "$kind: which the test sees from behind"
            if $what eq 'proxy' && $kind ne 'sqlite3';
        $db->thaw;
        is scalar <$answer>, "stored\n", "$kind: thawed, it answers";
        ok close $answer, "$kind: without an error";
        if ($through) {
            is $through->body, 'the secret', "$kind: httpd has its answer too";
            $through->close;
        }
        $db->do('DELETE FROM kept WHERE number = 9');
    }

    # Only new connections are sure to work: apr's drivers reconnect an old one behind mod_dbd's back, without the statements
    # that were prepared on it.
    $db->kill->start;
    $t->restart;
    is $ask->()->body, 'the secret', "$kind: httpd finds it again after kill -9";

    $db->reset;
    ok !eval { $db->value('SELECT count(*) FROM users'); 1 }, "$kind: empty after reset";
    $t->check;
    ok $db->stop, "$kind: stops in order";
}

# As the benchmark has it: no proxy in between, and on disk when it says so.
for my $kind (@KINDS) {
    my $dir = File::Temp->newdir('chatstream-XXXXXX', TMPDIR => 1);
    my $db = ChatStream::Database->new(kind => $kind, dir => $dir, proxy => 0, durable => 1)->start;
    $db->do('CREATE TABLE kept (number INT)');
    my $answer = asker($kind, $db->params);
    is scalar <$answer>, "stored\n", "$kind: without a proxy";
    close $answer;
    is $db->kill->start->value('SELECT number FROM kept'), 9, "$kind: durable";
}

# A test that is killed leaves nothing behind, whatever state its databases are in.
{
    my $dir = File::Temp->newdir('chatstream-XXXXXX', TMPDIR => 1);
    my $program = <<'END';
my $dir = shift;
$| = 1;
for ([ pgsql => 'proxy' ], [ pgsql => 'server' ], [ mysql => 'none' ], [ mysql => 'server' ]) {
    my ($kind, $what) = @$_;
    my $db = ChatStream::Database->new(kind => $kind, dir => $dir)->start;
    push @all, $db;
    push @pids, $db->pid, ChatStream::Process::children_of($db->pid);
    $db->freeze($what) if $what ne 'none';
}
my $lock = ChatStream::Database->new(kind => 'sqlite3', dir => $dir)->start->freeze;
print join(' ', @pids, ChatStream::Process::children_of($$)), "\n";
sleep 100;
END
    my $pid = open my $output, '-|', $^X, "-I$FindBin::Bin/../lib", '-MChatStream::Database', '-e', $program, $dir or die $!;
    my @pids = split ' ', <$output>;
    cmp_ok scalar(alive_of(@pids)), '>', 12, 'a test with five databases';
    kill 'KILL', $pid;
    ok wait_until(sub { !alive_of(@pids) }, 15), 'none is left when it is killed' or diag `ps -fp @{[ join ',', alive_of(@pids) ]}`;
    close $output;
}

ok !eval { ChatStream::Database->new(kind => 'oracle', dir => '/tmp'); 1 }, 'an unknown kind dies';
done_testing();
