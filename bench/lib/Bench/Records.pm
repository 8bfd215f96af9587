# SPDX-License-Identifier: Apache-2.0
package Bench::Records;

# What a measurement with records needs beside httpd: the private PostgreSQL of the run, CPU clocks that can be read at
# any moment (the store works on after the last stream), how far the records are, and whether all of them arrived.

use strict;
use warnings;
use utf8;
use Cwd qw(realpath);
use Exporter 'import';
use File::Basename qw(dirname);
use HTTP::Tiny ();
use JSON::PP ();
use POSIX ();
use Time::HiRes qw(sleep time);
use Bench::Proc qw(family slurp);

our @EXPORT_OK = qw(lacks_database database cpu_of database_cpu saved wait_saved finished_rows);

my $server;    # the ChatStream::Database of this run, made when first asked for
my $tests = realpath(dirname(__FILE__) . '/../../../t/lib');

# Rows are counted through DBI, and PostgreSQL is started by the tests' fixture: why that cannot be; undef when it can.
sub lacks_database {
    my ($kind) = @_;
    my $driver = $kind eq 'pgsql' ? 'DBD::Pg' : 'DBD::SQLite';
    eval "require $driver; 1" or return "Perl's $driver is not installed";
    return if $kind ne 'pgsql';
    my @places = (glob('/usr/lib/postgresql/*/bin'), split /:/, $ENV{PATH} // '');
    return (grep { -x "$_/postgres" } @places) ? undef : 'postgres is not installed';
}

# An empty PostgreSQL. One server process for the run, a new database for each measurement; with fsync, as in earnest.
sub database {
    my ($tmp) = @_;
    if (!$server) {
        local @SIG{qw(HUP INT TERM PIPE)};    # the fixture sets its own
        unshift @INC, $tests;
        require ChatStream::Database;
        $server = ChatStream::Database->new(kind => 'pgsql', dir => $tmp, proxy => 0, durable => 1)->start;
    }
    else {
        $server->thaw;
        $server->reset;
    }
    return $server;
}

# The server itself is stopped: connections stay, nothing is answered.
sub freeze { $server->freeze('server') }
sub thaw   { $server->thaw if $server }

# ---- CPU ----

# The kernel's process CPU clocks, as the load client reads them: pid => nanoseconds, all threads.
sub cpu_of {
    my %cpu;
    for my $pid (@_) {
        my $ns = eval { Time::HiRes::clock_gettime(-8 * ($pid + 1) + 2) };
        $cpu{$pid} = $ns * 1e9 if defined $ns && $ns >= 0;
    }
    return \%cpu;
}

# The database server's: its processes come and go, and those that went are in their parent's children's time (ticks).
sub database_cpu {
    return {} if !$server;
    my $cpu = cpu_of(family($server->pid));
    my @stat = split ' ', (slurp('/proc/' . $server->pid . '/stat') // '') =~ s/^.*\) //sr;
    $cpu->{ended} = ($stat[13] + $stat[14]) * 1e9 / POSIX::sysconf(POSIX::_SC_CLK_TCK()) if @stat > 14;
    return $cpu;
}

# ---- how far the records are ----

# Facts that this child's store thread has committed; health says so without a look into the database.
sub saved {
    my ($port) = @_;
    my $r = HTTP::Tiny->new(timeout => 10)->get("http://127.0.0.1:$port/health");
    my $health = eval { JSON::PP::decode_json($r->{content}) } or die "no health from mod_chatstream: $r->{content}\n";
    return $health->{records}{saved} // die "this mod_chatstream's health knows no records\n";
}

# Waits until so many facts are committed; seconds that took, undef: never.
sub wait_saved {
    my ($port, $facts, $limit) = @_;
    my $began = time;
    while ((my $spent = time - $began) < $limit) {
        return $spent if saved($port) >= $facts;
        sleep 0.02;
    }
    return;
}

# Sessions in the database that are no longer active: one for each stream that ended.
sub finished_rows {
    my ($kind, $dir) = @_;
    my $sql = q{SELECT count(*) FROM streaming_sessions WHERE status <> 'active'};
    return $server->value($sql) if $kind eq 'pgsql';
    require DBI;
    my $dbh = DBI->connect("dbi:SQLite:dbname=$dir/run/chatstream/chatstream.db", '', '',
        { RaiseError => 1, PrintError => 0, sqlite_busy_timeout => 10_000 });
    my $rows = $dbh->selectrow_array($sql);
    $dbh->disconnect;
    return $rows;
}

1;
