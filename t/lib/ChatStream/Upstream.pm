# SPDX-License-Identifier: Apache-2.0
package ChatStream::Upstream;

# The upstream of a test: one process of the simulator tools/chatstream-upstream.
#
#     my $upstream = ChatStream::Upstream->new(dir => $dir, program => 'tools/chatstream-upstream');
#     $upstream->script(slow => "token Hel\nwait go\ntoken lo\ndone\n");
#     ... a client asks for /sse?script=slow and reads its first event ...
#     $upstream->signal('go');
#     $upstream->wait_for(finished => 1);

use strict;
use warnings;

use ChatStream::Client;
use ChatStream::Process qw(slurp wait_until);
use JSON::PP ();

my $instances = 0;

# Options: program, dir (for its port file and output); tls => [certificate, key]; unix => 1 for a second listener on a
# socket in dir; port, to come back on the port of one that was stopped.
sub new
{
    my ($class, %options) = @_;
    my $self = bless { %options, number => ++$instances }, $class;
    $self->{log} = "$options{dir}/upstream-$self->{number}.log";
    $self->{unix_path} = "$options{dir}/upstream-$self->{number}.sock" if $options{unix};
    $self->start;
    return $self;
}

sub start
{
    my ($self) = @_;
    my $port_file = "$self->{dir}/upstream-$self->{number}.port";
    unlink $port_file;
    $self->{process} = ChatStream::Process->start(
        name    => 'chatstream-upstream',
        output  => $self->{log},
        command => [
            # --tls is for the listeners named after it.
            $self->{program}, $self->{unix_path} ? ('--unix', $self->{unix_path}) : (),
            $self->{tls} ? ('--tls', @{ $self->{tls} }) : (),
            '--listen', '127.0.0.1:' . ($self->{port} || 0), '--port-file', $port_file,
        ],
    );
    my $port = wait_until(sub { !$self->{process}->alive || (slurp($port_file) // '') =~ /^(\d+)\n/ ? $1 || -1 : 0 }, 10);
    die 'the upstream simulator did not start: ' . (slurp($self->{log}) // '') . "\n" if !$port || $port < 0;
    $self->{port} = $port;
    # httpd's children reach the socket as www-data.
    chmod 0777, $self->{unix_path} if $self->{unix_path};
    return $self;
}

sub stop { $_[0]{process}->stop }
sub port { $_[0]{port} }
sub log  { slurp($_[0]{log}) // '' }
sub unix_path { $_[0]{unix_path} }
sub url { ($_[0]{tls} ? 'https' : 'http') . '://' . ($_[0]{tls} ? 'localhost' : '127.0.0.1') . ":$_[0]{port}" }

sub _request
{
    my ($self, $method, $path, $body, $timeout) = @_;
    my $answer = ChatStream::Client->new(
        port => $self->{port}, tls => !!$self->{tls}, method => $method, path => $path, body => $body,
        timeout => $timeout || 10,
    );
    my $text = $answer->body;
    my $status = $answer->status;
    die "upstream simulator: $method $path: $status $text\n" if $status >= 300;
    return $text;
}

# Defines or replaces a script; a request with script=NAME in its query plays it.
sub script { my ($self, $name, $text) = @_; return $self->_request(PUT => "/_script/$name", $text) }

# Lets every script go on that waits for this name, now or later.
sub signal { my ($self, $name) = @_; return $self->_request(POST => "/_signal/$name", '') }

# Forgets scripts, signals and counts.
sub reset { return $_[0]->_request(POST => '/_reset', '') }

# { requests, active, finished, aborted, connections }, or one of them.
sub count
{
    my ($self, $name) = @_;
    my $count = JSON::PP->new->utf8->decode($self->_request(GET => '/_count'));
    return $name ? $count->{$name} : $count;
}

# What was asked, in order: list of { method, path, headers, body, ... } as the simulator tells it.
sub requests
{
    my ($self) = @_;
    my $answer = JSON::PP->new->utf8->decode($self->_request(GET => '/_requests'));
    return ref $answer eq 'HASH' ? @{ $answer->{requests} } : @$answer;
}

# Waits until the count of that name (requests, aborted, finished, active) is N; dies after `timeout` seconds.
sub wait_for
{
    my ($self, $name, $number, $timeout) = @_;
    $timeout //= 10;
    return $self->_request(GET => "/_wait/$name/$number?timeout=" . int($timeout * 1000), undef, $timeout + 5);
}

1;
